// What the failure of a call means, as ../python/probe/verdicts.py has it. undici, which the SDK and
// Node use, publishes each exchange on a diagnostics channel.
import { AssertionError } from 'node:assert'
import diagnostics from 'node:diagnostics_channel'

export const DIFFERS = 'differs', REFUSED = 'refused', MISSING = 'missing', NOT_OFFERED = 'not-offered'
const BY_NAME = /not (?:yet |currently )?(?:supported|offered|implemented|available)|unsupported|(?:does|do) ?(?:n.t| not) (?:yet )?support|no support/i
const NO_ROUTE = /method not allowed|unimplemented|no operation at|page not found|no such (?:call|method|operation|route)/i
const BY_PLAN = /your (?:plan|team|tier)|not enabled/i
const NO_TEMPLATE = /template\b.*\bnot found|no template|unknown template/is
const STATUS = /\b([45]\d\d):/

let seen = []
diagnostics.subscribe('undici:request:headers', ({ request, response }) => {
  seen.push([request.method, request.path.split('?')[0], response.statusCode])
})

// The exchanges since the last call.
export function taken() {
  const all = seen
  seen = []
  return all
}

export function judged(error, exchanges, alive) {
  if (error.exitCode === 127) return [NOT_OFFERED, `the template lacks the program: ${error.stderr.trim()}`]
  const text = error instanceof AssertionError ? `unlike E2B: ${error.message}` : `${error.name}: ${error.message}`
  const last = exchanges.at(-1)
  const answered = last && last[2] >= 400 ? `; ${last[0]} ${last[1]} answered ${last[2]}` : ''
  return [kind(text, last?.[2] ?? 0, alive), `${text.slice(0, 500)}${answered}`]
}

function kind(text, last, alive) {
  const status = STATUS.test(text) ? Number(STATUS.exec(text)[1]) : last
  if (NO_TEMPLATE.test(text)) return NOT_OFFERED
  if (status === 405 || NO_ROUTE.test(text)) return MISSING
  if (BY_NAME.test(text)) return REFUSED
  if (status === 501) return MISSING
  if ([402, 403].includes(status) || BY_PLAN.test(text)) return NOT_OFFERED
  return status === 404 && alive ? MISSING : DIFFERS
}
