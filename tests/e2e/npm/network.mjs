// A real PLC directory and one or more real PDSes in one Node process, driven by JSON lines.
//
// Prints one line when ready: {"ready":true,"plc":URL,"pds":[URL,...]}. Then reads {"id":n,"cmd":name,...} lines from stdin
// and answers each with {"id":n,"ok":true,"result":{...}} or {"id":n,"ok":false,"error":text}. Commands run one after the
// other. Ends when stdin does.
//
// Arguments: [--pds N] [--crawler URL]...   (N PDSes, 1 by default; where they post requestCrawl)
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { print, require } from './packages.mjs'

// The package's index would load the app view, Redis clients and more: take the two files that matter.
const { TestPlc } = require('@atproto/dev-env/dist/plc')
const { TestPds } = require('@atproto/dev-env/dist/pds')

const PASSWORD = 'correct-horse-battery'

const { values: args } = parseArgs({
  options: { pds: { type: 'string', default: '1' }, crawler: { type: 'string', multiple: true, default: [] } },
})

const plc = await TestPlc.create({})
const fleet = []
for (let i = 0; i < Number(args.pds); i++) {
  fleet.push(await TestPds.create({ didPlcUrl: plc.url, inviteRequired: false, crawlers: args.crawler }))
}

const accounts = new Map() // did -> { agent, pds }

function accountOf(did) {
  const account = accounts.get(did)
  if (!account) throw new Error(`no such account here: ${did}`)
  return account
}

function post(text) {
  return { $type: 'app.bsky.feed.post', text, createdAt: new Date().toISOString() }
}

const commands = {
  async createAccount({ handle, pds = 0 }) {
    const host = fleet[pds]
    const agent = host.getClient()
    const email = `${handle.split('.')[0]}@mail.test`
    const { data } = await agent.createAccount({ handle, email, password: PASSWORD })
    accounts.set(data.did, { agent, pds: host })
    return { did: data.did, handle: data.handle }
  },

  // One record of any collection: {did, collection, rkey?, record}
  async createRecord({ did, collection, rkey, record }) {
    const { agent } = accountOf(did)
    const { data } = await agent.com.atproto.repo.createRecord({ repo: did, collection, rkey, record })
    return data
  },

  async post({ did, text }) {
    return commands.createRecord({ did, collection: 'app.bsky.feed.post', record: post(text) })
  },

  async like({ did, uri, cid }) {
    const record = { $type: 'app.bsky.feed.like', subject: { uri, cid }, createdAt: new Date().toISOString() }
    return commands.createRecord({ did, collection: 'app.bsky.feed.like', record })
  },

  // Creates or edits: {did, collection, rkey, record}
  async putRecord({ did, collection, rkey, record }) {
    const { data } = await accountOf(did).agent.com.atproto.repo.putRecord({ repo: did, collection, rkey, record })
    return data
  },

  async deleteRecord({ did, collection, rkey }) {
    const { data } = await accountOf(did).agent.com.atproto.repo.deleteRecord({ repo: did, collection, rkey })
    return data
  },

  // Creates `count` posts in one commit.
  async batch({ did, count, text = 'batch' }) {
    const writes = []
    for (let i = 0; i < count; i++) {
      writes.push({
        $type: 'com.atproto.repo.applyWrites#create',
        collection: 'app.bsky.feed.post',
        value: post(`${text} ${i}`),
      })
    }
    const { data } = await accountOf(did).agent.com.atproto.repo.applyWrites({ repo: did, writes })
    return { uris: data.results.map((r) => r.uri), commit: data.commit }
  },

  async applyWrites({ did, writes }) {
    const { data } = await accountOf(did).agent.com.atproto.repo.applyWrites({ repo: did, writes })
    return data
  },

  async updateHandle({ did, handle }) {
    await accountOf(did).agent.com.atproto.identity.updateHandle({ handle })
    return {}
  },

  async deactivate({ did }) {
    await accountOf(did).agent.com.atproto.server.deactivateAccount({})
    return {}
  },

  async reactivate({ did }) {
    await accountOf(did).agent.com.atproto.server.activateAccount()
    return {}
  },

  async deleteAccount({ did }) {
    const { agent, pds } = accountOf(did)
    await agent.com.atproto.admin.deleteAccount({ did }, { headers: pds.adminAuthHeaders(), encoding: 'application/json' })
    accounts.delete(did)
    return {}
  },

  async close() {
    for (const pds of fleet) await pds.close()
    await plc.close()
    return {}
  },
}

print({ ready: true, plc: plc.url, pds: fleet.map((pds) => pds.url) })

for await (const line of createInterface({ input: process.stdin })) {
  const { id, cmd, ...params } = JSON.parse(line)
  try {
    if (!Object.hasOwn(commands, cmd)) throw new Error(`unknown command ${cmd}`)
    print({ id, ok: true, result: await commands[cmd](params) })
  } catch (err) {
    print({ id, ok: false, error: `${err?.name ?? 'Error'}: ${err?.message ?? err}` })
  }
  if (cmd === 'close') break
}
process.exit(0)
