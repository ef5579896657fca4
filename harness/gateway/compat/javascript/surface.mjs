// The methods of the installed SDK that call its service, read from its declarations, which alone say
// what is public. Names are as in ../python/probe/surface.py: Sandbox.create, sandbox.kill.
import { readFileSync } from 'node:fs'

const PACKAGES = ['e2b', '@e2b/code-interpreter']
const MEMBER = /^ {2}(static )?(\w+)(?:<[^(]*>)?\(/

export const snake = (name) => name.replace(/(?<=[a-z0-9])(?=[A-Z])/g, '_').toLowerCase()

// A member's text from its line to the semicolon that ends it.
function memberAt(lines, start) {
  let end = start
  while (!/^ {2}\S.*;$|^ {2}.*\);$/.test(lines[end]) && end < lines.length - 1) end++
  return lines.slice(start, end + 1).join(' ')
}

// The names of a method's parameters, without options and `this`.
const parameters = (text) =>
  [...text.slice(text.indexOf('(') + 1, text.lastIndexOf('):')).matchAll(/(?:^|, )(\w+)\??:/g)]
    .map((match) => match[1]).filter((name) => !['this', 'opts', 'options'].includes(name))

function classes() {
  const found = new Map(), properties = new Map()
  for (const name of PACKAGES) {
    const text = readFileSync(new URL(`node_modules/${name}/dist/index.d.ts`, import.meta.url), 'utf8')
    const exported = new Set([...text.slice(text.lastIndexOf('export {')).matchAll(/(?:type )?(\w+)(?: as (\w+))?[,\s}]/g)].map((match) => match[1]))
    for (const [, own, base, body] of text.matchAll(/^declare class (\w+)(?:<.*?>)?(?: extends ([\w$]+))?[^\n]*\{\n([\s\S]*?)^\}/gm)) {
      const lines = body.split('\n')
      const members = found.get(own) ?? { members: [], exported: false, base: null }
      if (base && !base.includes('$')) members.base = base
      members.exported ||= exported.has(own)
      for (const [number, line] of lines.entries()) {
        const match = MEMBER.exec(line)
        if (match && match[2] !== 'constructor') members.members.push({ own: !match[1], name: match[2], text: memberAt(lines, number) })
        const property = /^ {2}readonly (\w+): ([A-Z]\w+);$/.exec(line)
        if (own === 'Sandbox' && property) properties.set(property[2], property[1])
      }
      found.set(own, members)
    }
  }
  return { found, properties }
}

export function methods() {
  const { found, properties } = classes()
  const names = new Set()
  for (const [label, { members, exported, base }] of found) {
    if (!exported || /(Error|Config|Client)$/.test(label)) continue
    const all = [...members, ...(found.get(base)?.members ?? [])]
    const prefix = { own: properties.get(label) ?? snake(label.replace(/Base$/, '')), class: label.replace(/Base$/, '') }
    for (const { own, name, text } of all) {
      const calls = /\): (Promise<|\w+Paginator)/.test(text)
      if (label !== 'Sandbox' && !calls) continue
      // One that is there for the class too, with the same parameters besides an id, is one method.
      const twin = !own && all.find((other) => other.own && other.name === name)
      const same = twin && parameters(twin.text).every((each) => parameters(text).includes(each))
      names.add(`${own || same ? prefix.own : prefix.class}.${snake(name)}`)
    }
  }
  return [...names].sort()
}
