// The microphone, where the browser lends it.

export function whyNot () {
  if (!window.isSecureContext) return 'The microphone needs localhost or https: open this page by one of them.'
  if (!navigator.mediaDevices || !window.MediaRecorder) return 'This browser records nothing.'
  return ''
}

// Start recording; the object's stop() gives the recording as a File.
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
