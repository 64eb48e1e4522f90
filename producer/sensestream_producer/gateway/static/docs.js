// Lists the routes of /openapi.json.

import { element } from './element.js'

function fields (schema, all) {
  const found = schema.$ref ? all[schema.$ref.split('/').at(-1)] : schema
  if (found.oneOf) return fields(found.oneOf[0], all)
  return Object.entries(found.properties ?? {}).map(([name, of]) => {
    const choices = of.enum ?? of.items?.enum
    const values = choices ? ` One of ${choices.join(', ')}.` : ''
    const needed = (found.required ?? []).includes(name) ? ' Required.' : ''
    return [name, `${of.description ?? of.type ?? ''}${values}${needed}`]
  })
}

function table (rows) {
  const list = element('dl')
  for (const [name, text] of rows) {
    const term = element('dt')
    term.append(element('code', name))
    list.append(term, element('dd', text))
  }
  return list
}

function route (path, method, of, all) {
  const section = element('section', '', 'card')
  const title = element('h2')
  title.append(element('span', method.toUpperCase(), 'method'), ' ', element('code', path))
  section.append(title, element('p', of.summary), element('p', of.description ?? '', 'hint'))
  const parameters = (of.parameters ?? []).map((one) => [one.name, `${one.description ?? ''} (${one.in})`])
  if (parameters.length) section.append(table(parameters))
  for (const [type, { schema }] of Object.entries(of.requestBody?.content ?? {})) {
    section.append(element('h3', type), table(fields(schema, all)))
  }
  const answers = Object.entries(of.responses).map(([status, one]) => [status, one.description])
  const more = element('details')
  more.append(element('summary', 'Answers'), table(answers))
  section.append(more)
  return section
}

const api = await (await fetch('/openapi.json')).json()
const all = api.components?.schemas ?? {}
document.getElementById('routes').replaceChildren(...Object.entries(api.paths).flatMap(
  ([path, methods]) => Object.entries(methods).map(([method, of]) => route(path, method, of, all))))
