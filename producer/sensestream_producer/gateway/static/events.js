// The stream of outcomes. EventSource is not used, since it cannot send a key.

import { call } from './api.js'

const MAX_PAUSE = 5000 // ms between two tries

// A parser of server-sent events: feed it text, and `emit` gets each {event, data, id}.
export function parser (emit) {
  let rest = ''
  let id = ''
  return (text) => {
    const blocks = (rest + text).split('\n\n')
    rest = blocks.pop()
    for (const block of blocks) {
      let event = 'message'
      const data = []
      for (const line of block.split('\n')) {
        const [name, value] = [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trimStart()]
        if (name === 'id') id = value
        if (name === 'event') event = value
        if (name === 'data') data.push(value)
      }
      emit({ event, id, data: data.length ? JSON.parse(data.join('\n')) : undefined })
    }
  }
}

// Follow the outcomes until the signal aborts. After an interruption it resumes.
export async function follow ({ signal, onOutcome, onGap, onState }) {
  let position = ''
  let pause = 250
  while (!signal.aborted) {
    try {
      const headers = position ? { 'Last-Event-ID': position } : {}
      const response = await call('/v1/events', { headers, signal })
      onState('live')
      pause = 250
      const feed = parser(({ event, id, data }) => {
        position = id || position
        if (event === 'outcome') onOutcome(data)
        if (event === 'gap') onGap(data)
      })
      for await (const chunk of chunks(response.body.pipeThrough(new TextDecoderStream()))) feed(chunk)
      onState('away')
    } catch (error) {
      if (signal.aborted) return
      onState(error.status === 401 || error.status === 403 ? 'locked' : 'away', error.message)
      if (error.status === 401 || error.status === 403) return
    }
    await new Promise((resolve) => setTimeout(resolve, pause))
    pause = Math.min(2 * pause, MAX_PAUSE)
  }
}

async function * chunks (stream) { // Safari's streams are not async iterable
  const reader = stream.getReader()
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value
}
