// Calls to the gateway: the key that goes with them, and refusals as errors with one sentence.

const KEY = 'sensestream-key'

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? '',
  set: (value) => value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)
}

export class Refused extends Error {
  constructor (status, message) {
    super(message)
    this.status = status
  }
}

export async function call (path, options = {}) {
  const headers = new Headers(options.headers)
  if (key.get()) headers.set('Authorization', `Bearer ${key.get()}`)
  let answer
  try {
    answer = await fetch(path, { ...options, headers })
  } catch (error) {
    if (error.name === 'AbortError') throw error
    throw new Refused(0, 'The gateway does not answer. This page tries again by itself.')
  }
  if (answer.ok) return answer
  const told = await answer.json().catch(() => ({}))
  throw new Refused(answer.status, told.detail ?? told.message ?? `The gateway answered ${answer.status}.`)
}

export const json = async (path, options) => (await call(path, options)).json()
