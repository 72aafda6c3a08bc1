// What npm's @atproto/sync makes of frames: reads hex lines from stdin, prints one JSON line for each: {"type"} as its
// subscription names the message, and whether its Firehose takes it for an event ("event"); {"error"} where reading throws,
// which ends the subscription, or its lexicon refuses the message.
import { createInterface } from 'node:readline'
import path from 'node:path'
import { print, require } from '../e2e/npm/packages.mjs'

const { ensureChunkIsMessage } = require('@atproto/xrpc-server')
const { isValidRepoEvent, isCommit, isSync, isIdentity, isAccount } = require(
  path.join(process.env.ZLAY_NPM, 'node_modules/@atproto/sync/dist/firehose/lexicons.js'),
)
const METHOD = 'com.atproto.sync.subscribeRepos'

function read(raw) {
  const message = ensureChunkIsMessage(raw)
  const t = message.header.t
  const type = t.startsWith('#') ? METHOD + t : t // as xrpc-server's Subscription does
  const event = isValidRepoEvent({ ...message.body, $type: type })
  return { type, event: [isCommit, isSync, isIdentity, isAccount].some((is) => is(event)) }
}

for await (const line of createInterface({ input: process.stdin })) {
  try {
    print(read(Buffer.from(line, 'hex')))
  } catch (err) {
    print({ error: String(err) })
  }
}
