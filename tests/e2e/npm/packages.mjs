// Resolves npm packages from the cache that scripts/test-deps fills ($ZLAY_NPM), since that folder lies outside the tree
// and Node looks for ES modules only above the importing file.
import { createRequire } from 'node:module'
import path from 'node:path'

if (!process.env.ZLAY_NPM) {
  process.stderr.write('ZLAY_NPM is not set: start this through tests/e2e (scripts/test-deps --paths prints the folder)\n')
  process.exit(2)
}

export const require = createRequire(path.join(process.env.ZLAY_NPM, 'package.json'))

export function print(object) {
  process.stdout.write(JSON.stringify(object) + '\n')
}

// A child whose parent has died must not stay behind.
export function exitWithParent() {
  process.stdin.on('end', () => process.exit(0))
  process.stdin.on('close', () => process.exit(0))
  process.stdin.resume()
}
