// Recording from the microphone.

// Why recording is not possible here; empty where it is.
export function obstacle () {
  if (!window.isSecureContext) return 'The microphone needs localhost or https: open this page through one of them.'
  if (!navigator.mediaDevices || !window.MediaRecorder) return 'This browser cannot record.'
  return ''
}

// Start recording; stop() of the returned object gives the recording as a File.
export async function record () {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true })
  const type = ['audio/webm;codecs=opus', 'audio/ogg;codecs=opus', 'audio/mp4'].find((one) => MediaRecorder.isTypeSupported(one))
  const recorder = new MediaRecorder(stream, type ? { mimeType: type } : {})
  const parts = []
  recorder.ondataavailable = (event) => parts.push(event.data)
  const ended = new Promise((resolve) => { recorder.onstop = resolve })
  recorder.start()
  return {
    async stop () {
      recorder.stop()
      await ended
      for (const track of stream.getTracks()) track.stop()
      const kind = recorder.mimeType.split(';')[0]
      return new File(parts, `recording.${kind.split('/')[1]}`, { type: kind })
    }
  }
}
