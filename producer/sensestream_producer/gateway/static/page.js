// The page: transcribe a recording, and watch the pipeline.

import { call, json, key } from './api.js'
import { Chart } from './charts.js'
import { element } from './element.js'
import { follow } from './events.js'
import { obstacle, record } from './recorder.js'

const POLL_INTERVAL = 2000 // ms between two updates of the figures
const MAX_SHOWN = 50 // outcomes in the list
const at = (id) => document.getElementById(id)

function chips (outcome) {
  const list = []
  if (outcome.status === 'failed') list.push(element('li', outcome.error, 'failed'))
  if (outcome.language) list.push(element('li', outcome.language))
  if (outcome.emotion) list.push(element('li', outcome.emotion.toLowerCase()))
  for (const event of outcome.events ?? []) list.push(element('li', event.toLowerCase()))
  if (outcome.cache) list.push(element('li', outcome.cache, outcome.cache === 'hit' ? 'hit' : ''))
  if (outcome.duration) list.push(element('li', `${outcome.duration.toFixed(1)} s of audio`))
  if (outcome.finished_at) list.push(element('li', `${outcome.finished_at - outcome.submitted_at} ms`))
  if (outcome.confidence) list.push(element('li', `${Math.round(100 * outcome.confidence)} % sure`))
  return list
}

// ---- transcribe

function showProblem (message) {
  at('problem').textContent = message
  at('problem').hidden = !message
}

function showWarnings (warnings) {
  at('warnings').replaceChildren(...warnings.map((one) => element('li', `Warning: ${one.message}`)))
  at('warnings').hidden = !warnings.length
}

function showResult (outcome) {
  const failed = outcome.status === 'failed'
  at('progress').textContent = ''
  at('text').textContent = failed ? '' : outcome.text || '(nothing was said)'
  showWarnings(outcome.warnings ?? [])
  at('facts').replaceChildren(...chips(outcome))
  at('copy').hidden = failed || !outcome.text
  if (failed) showProblem(outcome.message)
}

async function transcribe (file) {
  showProblem('')
  at('result').hidden = false
  at('text').textContent = ''
  showWarnings([])
  at('facts').replaceChildren()
  at('copy').hidden = true
  at('progress').textContent = `Sending ${file.name}…`
  const form = new FormData()
  form.set('language', at('language').value)
  form.set('itn', at('itn').checked)
  form.set('file', file)
  try {
    let job = await json('/v1/transcriptions?wait=20', { method: 'POST', body: form })
    while (!['completed', 'failed'].includes(job.status)) {
      at('progress').textContent = job.status === 'queued' ? 'Waiting for a worker…' : 'Transcribing…'
      job = await json(`${job.location}?wait=20`)
    }
    if (job.outcome) showResult(job.outcome)
    else at('progress').textContent = 'The transcript is no longer kept.'
  } catch (error) {
    at('result').hidden = true
    showProblem(error.message)
    if (error.status === 401) askForKey()
  }
}

function setUpFiles () {
  const drop = at('drop')
  at('file').addEventListener('change', (event) => {
    const [file] = event.target.files
    if (file) transcribe(file)
    event.target.value = '' // so that the same file again is a change
  })
  for (const name of ['dragenter', 'dragover']) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add('over') })
  }
  for (const name of ['dragleave', 'drop']) drop.addEventListener(name, () => drop.classList.remove('over'))
  drop.addEventListener('drop', (event) => {
    event.preventDefault()
    const [file] = event.dataTransfer.files
    if (file) transcribe(file)
  })
  at('copy').addEventListener('click', async () => {
    await navigator.clipboard?.writeText(at('text').textContent)
    at('progress').textContent = 'Copied.'
  })
}

function setUpMicrophone () {
  const button = at('record')
  const reason = obstacle()
  if (reason) {
    button.disabled = true
    button.setAttribute('aria-describedby', 'microphone-hint')
    at('microphone-hint').textContent = reason
    at('microphone-hint').hidden = false
    return
  }
  let recording = null
  button.addEventListener('click', async () => {
    if (recording) {
      const ended = recording
      recording = null
      button.textContent = 'Record'
      button.setAttribute('aria-pressed', 'false')
      await transcribe(await ended.stop())
      return
    }
    try {
      recording = await record()
      button.textContent = 'Stop and transcribe'
      button.setAttribute('aria-pressed', 'true')
    } catch {
      showProblem('The browser denied the microphone: allow it for this page, and try again.')
    }
  })
}

async function offerSamples () {
  const names = await json('/samples').catch(() => [])
  at('samples-label').hidden = !names.length
  at('samples').replaceChildren(at('samples').firstElementChild)
  for (const name of names) at('samples').append(new Option(name, name))
  at('samples').onchange = async (event) => {
    const name = event.target.value
    if (!name) return
    const response = await call(`/samples/${encodeURIComponent(name)}`)
    await transcribe(new File([await response.blob()], name))
  }
}

// ---- live outcomes

const latencies = []

function showOutcome (outcome) {
  const item = element('li', '', 'fresh')
  const time = element('time', new Date(outcome.finished_at).toLocaleTimeString())
  const text = element('p', outcome.status === 'failed' ? outcome.message : outcome.text || '(nothing was said)')
  const about = element('ul', '', 'chips')
  about.append(...chips(outcome))
  item.append(text, time, about)
  at('live').prepend(item)
  while (at('live').children.length > MAX_SHOWN) at('live').lastElementChild.remove()
  at('live-empty').hidden = true
  if (outcome.finished_at) latencies.push(outcome.finished_at - outcome.submitted_at)
  if (latencies.length > 100) latencies.shift()
}

function showGap () {
  at('live').prepend(element('li', 'Some outcomes were missed here.', 'hint'))
}

const STATES = { live: 'live', away: 'reconnecting', locked: 'needs a key' }

function showState (state) {
  at('connection').textContent = STATES[state]
  at('connection').dataset.state = state
}

// ---- figures

function median (values) {
  return values.length ? values.toSorted((a, b) => a - b)[values.length >> 1] : null
}

function makeCharts () {
  const parent = at('figures')
  return {
    queue: new Chart(parent, 'Queue', (n) => `${n}`),
    workers: new Chart(parent, 'Workers', (n) => `${n}`),
    hits: new Chart(parent, 'Hit rate', (n) => `${Math.round(100 * n)} %`),
    latency: new Chart(parent, 'Latency', (n) => `${Math.round(n)} ms`)
  }
}

function showFigures (charts, status) {
  const { hits = 0, coalesced = 0, completed = 0 } = status.counters
  charts.queue.add(status.backlog + status.backlog_high)
  charts.workers.add(status.workers.length)
  charts.hits.add(completed ? (hits + coalesced) / completed : null)
  charts.latency.add(median(latencies))
  at('workers').textContent = status.workers.length
    ? status.workers.map((one) => `${one.model} on ${one.device} at ${one.host}`).join(', ')
    : 'No worker is running: requests wait for one.'
}

// ---- dead letters

async function showLetters () {
  const { data } = await json('/v1/dead-letters')
  at('dead-count').textContent = data.length ? `(${data.length})` : ''
  const shown = [...at('letters').children].map((item) => item.dataset.letter).join()
  if (shown === data.map((one) => one.letter).join()) return // keeps the focus
  at('letters').replaceChildren(...data.map((letter) => {
    const item = element('li')
    item.dataset.letter = letter.letter
    const about = element('div')
    about.append(element('code', letter.request.audio ?? ''), element('p', letter.message, 'hint'))
    const button = element('button', 'Replay', 'quiet')
    button.type = 'button'
    button.setAttribute('aria-label', `Replay ${letter.id}`)
    button.addEventListener('click', () => replay(letter, button))
    item.append(about, button)
    return item
  }))
}

async function replay (letter, button) {
  button.disabled = true
  try {
    await json(`/v1/dead-letters/${letter.letter}/replay`, { method: 'POST' })
    at('dead-status').textContent = `${letter.id} was sent again.`
  } catch (error) {
    at('dead-status').textContent = error.message
  }
  await showLetters().catch(() => {})
}

// ---- start

function askForKey () {
  at('key-form').hidden = false
  at('key-open').setAttribute('aria-expanded', 'true')
  at('key').focus()
}

const charts = makeCharts()
let running = new AbortController()

async function start () {
  running.abort()
  running = new AbortController()
  const { signal } = running
  let access = null
  while (!access) {
    try {
      access = await json('/v1/access')
    } catch (error) {
      if (signal.aborted) return
      showState(error.status === 401 ? 'locked' : 'away')
      if (error.status === 401) return askForKey()
      await new Promise((resolve) => setTimeout(resolve, 1000))
    }
  }
  at('key-open').hidden = !access.keys
  at('dead').hidden = !access.scopes.includes('operate')
  if (access.scopes.includes('submit')) offerSamples()
  if (access.scopes.includes('read')) follow({ signal, onOutcome: showOutcome, onGap: showGap, onState: showState })
  else showState('locked')
  while (!signal.aborted) {
    if (access.scopes.includes('read')) await json('/v1/status').then((status) => showFigures(charts, status)).catch(() => {})
    if (access.scopes.includes('operate')) await showLetters().catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, POLL_INTERVAL))
  }
}

at('key-open').addEventListener('click', () => {
  at('key-form').hidden = !at('key-form').hidden
  at('key-open').setAttribute('aria-expanded', String(!at('key-form').hidden))
  if (!at('key-form').hidden) at('key').focus()
})
at('key-form').addEventListener('submit', (event) => {
  event.preventDefault()
  key.set(at('key').value.trim())
  at('key').value = ''
  at('key-form').hidden = true
  at('key-open').setAttribute('aria-expanded', 'false')
  start()
})
setUpFiles()
setUpMicrophone()
start()
