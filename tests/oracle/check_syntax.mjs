// npm @atproto/syntax's opinion: reads lines [kind, text] as JSON from stdin, prints true or false for each.
import { createInterface } from 'node:readline'
import { print, require } from '../e2e/npm/packages.mjs'

const syntax = require('@atproto/syntax')
const { isValidMstKey } = require('@atproto/repo/dist/mst/util.js')
const CHECKS = {
  did: syntax.isValidDid,
  handle: syntax.isValidHandle,
  nsid: syntax.isValidNsid,
  recordkey: syntax.isValidRecordKey,
  tid: syntax.isValidTid,
  datetime: syntax.isValidDatetime,
  mstkey: isValidMstKey,
}

for await (const line of createInterface({ input: process.stdin })) {
  const [kind, text] = JSON.parse(line)
  print(CHECKS[kind](text))
}
