// A third party's strict consumer: npm @atproto/sync with verification on, holding a firehose against a PLC directory.
//
//   node strict.mjs WS_URL PLC_URL [CURSOR]
//
// Prints one JSON line per event, {"seq","kind","did",...}, with what the library verified, or {"error",...}. Beyond the
// library's own checks (lexicon, signature, proof of every op) it demands that no op was left unproved (the library drops
// those silently), that commits without ops and #sync carry a valid signature too, and that `commit` is the CAR's root.
import { exitWithParent, print, require } from '../npm/packages.mjs'

const { IdResolver } = require('@atproto/identity')
const { Firehose } = require('@atproto/sync')
const { readCarWithRoot, verifyProofs } = require('@atproto/repo')

const [service, plcUrl, cursor] = process.argv.slice(2)
const KIND = /^com\.atproto\.sync\.subscribeRepos#/

const idResolver = new IdResolver({ plcUrl, timeout: 10_000 })
let seen = cursor === undefined ? undefined : Number(cursor)

async function signedBy(did, blocks) {
  for (const refresh of [false, true]) {
    const key = await idResolver.did.resolveAtprotoKey(did, refresh)
    try {
      await verifyProofs(blocks, [], did, key)
      return
    } catch (err) {
      if (refresh) throw err
    }
  }
}

class StrictFirehose extends Firehose {
  async parseEvt(evt) {
    const kind = evt.$type.replace(KIND, '')
    const line = { seq: evt.seq, kind, did: evt.repo ?? evt.did, rev: evt.rev }
    const before = errors
    const parsed = await super.parseEvt(evt)
    if (errors !== before) return []
    try {
      if (kind === 'commit') {
        const { root } = await readCarWithRoot(evt.blocks)
        if (!root.equals(evt.commit)) throw new Error(`commit ${evt.commit} is not the root ${root}`)
        await signedBy(evt.repo, evt.blocks)
        if (parsed.length !== evt.ops.length) throw new Error(`${parsed.length} of ${evt.ops.length} ops proved`)
        line.ops = evt.ops.map((op) => ({ action: op.action, path: op.path, cid: op.cid?.toString() ?? null }))
        line.commit = evt.commit.toString()
        line.verified = true
      } else if (kind === 'sync') {
        await signedBy(evt.did, evt.blocks)
        line.verified = true
      } else if (kind === 'account') {
        Object.assign(line, { active: evt.active, status: evt.status })
      } else if (kind === 'identity') {
        line.handle = evt.handle
      }
    } catch (err) {
      report(err, line.seq)
      return []
    }
    if (evt.seq !== undefined) seen = evt.seq
    print(line)
    return []
  }
}

let errors = 0
function report(err, seq) {
  errors += 1
  const cause = err.cause ? `: ${err.cause.message ?? err.cause}` : ''
  print({ error: err.constructor.name, message: `${err.message}${cause}`, seq: seq ?? err.event?.seq ?? err.value?.seq })
}

const firehose = new StrictFirehose({
  service,
  idResolver,
  handleEvent: () => {},
  onError: report,
  unauthenticatedHandles: true, // DNS is not ours to test, and a relay does not verify handles
  subscriptionReconnectDelay: 200,
})
// 0.1.40 hands its `getCursor` option itself, not what it returns, to the query string: set the parameters ourselves.
firehose.sub.opts.getParams = async () => (seen === undefined ? {} : { cursor: seen })
exitWithParent()
process.on('SIGTERM', () => process.exit(0))
print({ ready: true })
await firehose.start()
