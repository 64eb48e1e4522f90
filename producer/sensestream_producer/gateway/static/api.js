// Calls to the gateway with the user's key; error responses become errors with one sentence.

const KEY = 'sensestream-key'

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? '',
  set: (value) => value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)
}

export class ApiError extends Error {
  constructor (status, message) {
    super(message)
    this.status = status
  }
}

export async function call (path, options = {}) {
  const headers = new Headers(options.headers)
  if (key.get()) headers.set('Authorization', `Bearer ${key.get()}`)
  let response
  try {
    response = await fetch(path, { ...options, headers })
  } catch (error) {
    if (error.name === 'AbortError') throw error
    throw new ApiError(0, 'The gateway does not answer. This page tries again by itself.')
  }
  if (response.ok) return response
  const problem = await response.json().catch(() => ({}))
  throw new ApiError(response.status, problem.detail ?? problem.message ?? `The gateway answered ${response.status}.`)
}

export const json = async (path, options) => (await call(path, options)).json()
