// Small line charts of one figure over the last few minutes, with its current value as text.

const POINTS = 90
const SVG = 'http://www.w3.org/2000/svg'

export class Chart {
  constructor (parent, title, show) {
    this.values = []
    this.title = title
    this.show = show
    this.figure = document.createElement('figure')
    this.figure.className = 'figure'
    const caption = document.createElement('figcaption')
    this.value = document.createElement('strong')
    caption.append(title, this.value)
    this.svg = document.createElementNS(SVG, 'svg')
    this.svg.setAttribute('viewBox', `0 0 ${POINTS - 1} 40`)
    this.svg.setAttribute('preserveAspectRatio', 'none')
    this.svg.setAttribute('role', 'img')
    this.line = document.createElementNS(SVG, 'polyline')
    this.svg.append(this.line)
    this.figure.append(caption, this.svg)
    parent.append(this.figure)
    this.draw()
  }

  add (value) {
    this.values.push(value)
    if (this.values.length > POINTS) this.values.shift()
    this.draw()
  }

  draw () {
    const known = this.values.filter((value) => value !== null)
    const last = this.values.at(-1)
    this.value.textContent = last === undefined || last === null ? '–' : this.show(last)
    const most = Math.max(...known, 1e-9)
    const start = POINTS - this.values.length
    this.line.setAttribute('points', this.values
      .map((value, index) => value === null ? '' : `${start + index},${38 - 36 * value / most}`).join(' '))
    const range = known.length ? `, at most ${this.show(most)} lately` : ''
    this.svg.setAttribute('aria-label', `${this.title}: ${this.value.textContent}${range}`)
  }
}
