// npm @atproto/repo's trees: reads lines {"records": {path: cid}, "ops": [[action, path, cid or null], ...]} from stdin,
// prints for each {"before", "after", "blocks"}: the roots without and with the ops, and in base64 the nodes that it
// would put into the commit: new ones, and the covering proof of each path.
import { createInterface } from 'node:readline'
import { print, require } from '../e2e/npm/packages.mjs'

const { BlockMap, MST, MemoryBlockstore } = require('@atproto/repo')
const { CID } = require('multiformats/cid')

async function answer({ records, ops }) {
  const store = new MemoryBlockstore()
  let tree = await MST.create(store)
  for (const [path, cid] of Object.entries(records)) tree = await tree.add(path, CID.parse(cid))
  const { root: before, blocks } = await tree.getUnstoredBlocks()
  await store.putMany(blocks)
  tree = MST.load(store, before)
  for (const [action, path, cid] of ops) {
    if (action === 'create') tree = await tree.add(path, CID.parse(cid))
    else if (action === 'update') tree = await tree.update(path, CID.parse(cid))
    else tree = await tree.delete(path)
  }
  const { root: after, blocks: wanted } = await tree.getUnstoredBlocks()
  const all = new BlockMap()
  all.addMap(wanted)
  for (const [, path] of ops) all.addMap(await tree.getCoveringProof(path))
  const encoded = [...all.entries()].map((entry) => Buffer.from(entry.bytes).toString('base64'))
  return { before: before.toString(), after: after.toString(), blocks: encoded }
}

for await (const line of createInterface({ input: process.stdin })) print(await answer(JSON.parse(line)))
