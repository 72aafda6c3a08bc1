// npm @atproto/repo's opinion on what the simulated network made: reads the lines of `zlay sim --dump-json` from stdin,
// prints one JSON line per event and repository: {"type","seq"|"did",...,"ok":true} or {...,"ok":false,"error"}.
//
// A commit is ok when its frame decodes to two items, its root is `commit`, its signature and every op are proved by
// verifyProofs, each record is in the CAR, and undoing the ops on the partial tree, with the library's own tree code, gives
// prevData (the empty tree for a first commit). A repository is ok when verifyRepoCar takes it, it has as many records as
// it says, and the tree built anew from its records has the root that its commit names.
import { createInterface } from 'node:readline'
import { print, require } from '../e2e/npm/packages.mjs'

const { MST, MemoryBlockstore, def, parseDataKey, readCarWithRoot, verifyProofs, verifyRepoCar } = require('@atproto/repo')
const { cborDecodeMulti } = require('@atproto/common')

const EMPTY_TREE = 'bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm'

function need(condition, what) {
  if (!condition) throw new Error(what)
}

async function invert(mst, ops) {
  const deletesFirst = [...ops].sort((a, b) => (b.action === 'delete') - (a.action === 'delete'))
  for (const op of deletesFirst) {
    if (op.action === 'create') mst = await mst.delete(op.path)
    else if (op.action === 'update') mst = await mst.update(op.path, op.prev)
    else mst = await mst.add(op.path, op.prev)
  }
  return mst.getPointer()
}

async function checkCommit(message, didKey) {
  const { root, blocks } = await readCarWithRoot(message.blocks)
  need(root.equals(message.commit), 'commit is not the root')
  const claims = message.ops.map((op) => ({ ...parseDataKey(op.path), cid: op.cid }))
  const { unverified } = await verifyProofs(message.blocks, claims, message.repo, didKey)
  need(unverified.length === 0, `ops not proved: ${unverified.map((claim) => claim.rkey)}`)
  const store = new MemoryBlockstore(blocks)
  const commit = await store.readObj(root, def.commit)
  need(commit.rev === message.rev, 'rev')
  if (message.ops.length === 0 && !blocks.has(commit.data)) {
    need(commit.data.equals(message.prevData), 'an empty commit changed the tree')
    return
  }
  const before = await invert(MST.load(store, commit.data), message.ops)
  need(before.toString() === (message.prevData?.toString() ?? EMPTY_TREE), `inversion gives ${before}`)
}

async function checkEvent(line) {
  const items = cborDecodeMulti(Buffer.from(line.frame, 'base64'))
  need(items.length === 2, `${items.length} items`)
  const [header, message] = items
  need(header.op === 1 && header.t === `#${line.kind}`, `header ${JSON.stringify(header)}`)
  if (line.kind === 'commit') await checkCommit(message, line.didKey)
  if (line.kind === 'sync') await verifyProofs(message.blocks, [], message.did, line.didKey)
}

async function checkRepo(line) {
  const { creates, commit } = await verifyRepoCar(Buffer.from(line.car, 'base64'), line.did, line.didKey)
  need(creates.length === line.records, `${creates.length} records, not ${line.records}`)
  need(commit.cid.toString() === line.head && commit.rev === line.rev, 'head or rev')
  let tree = await MST.create(new MemoryBlockstore())
  for (const { collection, rkey, cid } of creates) tree = await tree.add(`${collection}/${rkey}`, cid)
  need((await tree.getPointer()).toString() === line.data, 'the tree of these records has another root')
}

for await (const text of createInterface({ input: process.stdin })) {
  const line = JSON.parse(text)
  const { type, did, seq, host, kind, expect, fault, reason } = line
  const answer = { type, did, seq, host, kind, expect, fault, reason }
  try {
    await (type === 'repo' ? checkRepo(line) : checkEvent(line))
    print({ ...answer, ok: true })
  } catch (err) {
    print({ ...answer, ok: false, error: `${err.name}: ${err.message}`.slice(0, 300) })
  }
}
