// @ts-check
/** Lines over the last ten minutes, drawn by uPlot, which the page loads as a script of its own. */

/** @typedef {import("./api.js").Moment} Moment */

const MOST = 600;
/** @type {typeof import("uplot")} */
const uPlot = /** @type {any} */ (globalThis).uPlot;
const sync = uPlot.sync("board");

/**
 * @typedef {object} Line
 * @property {string} name
 * @property {(moment: Moment) => number | null} read
 *
 * @typedef {object} Options
 * @property {string} title
 * @property {Line[]} lines one or two
 * @property {(value: number | null) => string} show a value in words
 * @property {boolean} [times] whether values are durations, whose differences are best seen as factors
 */

/** One chart, with the newest values beside its title, or those under the pointer. */
export class Chart {
  #figure;
  #options;
  #plot = document.createElement("div");
  /** @type {HTMLElement[]} */
  #values = [];
  /** @type {Moment[]} */
  #moments = [];
  /** @type {any} */
  #drawn = null;

  /** @param {HTMLElement} figure @param {Options} options */
  constructor(figure, options) {
    this.#figure = figure;
    this.#options = options;
    const caption = document.createElement("figcaption");
    const title = document.createElement("h2");
    const key = document.createElement("ul");
    title.textContent = options.title;
    key.className = "key";
    for (const { name } of options.lines) {
      const item = document.createElement("li");
      const value = document.createElement("b");
      item.append(`${name} `, value);
      this.#values.push(value);
      key.append(item);
    }
    caption.append(title, key);
    this.#plot.className = "plot";
    this.#plot.setAttribute("role", "img");
    figure.append(caption, this.#plot);
    new ResizeObserver(() => this.#resize()).observe(this.#plot);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#rebuild());
  }

  /** @param {Moment[]} moments all that are known, the oldest first */
  show(moments) {
    this.#moments = moments.slice(-MOST);
    if (!this.#drawn) this.#rebuild();
    else this.#drawn.setData(this.#data());
    this.#tell(this.#moments.length - 1);
  }

  #data() {
    const { lines } = this.#options;
    return [this.#moments.map(({ at }) => at), ...lines.map(({ read }) => this.#moments.map(read))];
  }

  /** @param {number} index of the moment whose values are told */
  #tell(index) {
    const moment = this.#moments[index];
    const told = this.#options.lines.map(({ read }) => this.#options.show(moment ? read(moment) : null));
    told.forEach((text, line) => (this.#values[line].textContent = text));
    const names = this.#options.lines.map(({ name }, line) => `${name} ${told[line]}`);
    this.#plot.setAttribute("aria-label", `${this.#options.title}: ${names.join(", ")}`);
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.#plot;
    if (width && this.#drawn) this.#drawn.setSize({ width, height });
    else if (width && this.#moments.length) this.#rebuild();
  }

  /** Colours are drawn, not styled, so another theme is another drawing. */
  #rebuild() {
    const { clientWidth: width, clientHeight: height } = this.#plot;
    if (!width) return;
    this.#drawn?.destroy();
    const style = getComputedStyle(this.#figure);
    const colour = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
    const colours = [colour("--one"), colour("--two")];
    const axis = {
      stroke: colour("--quiet"),
      grid: { stroke: colour("--grid"), width: 1 },
      ticks: { show: false },
      font: `12px ${style.fontFamily}`,
    };
    const { lines, times } = this.#options;
    this.#drawn = new uPlot(
      {
        width,
        height,
        legend: { show: false },
        cursor: { sync: { key: sync.key }, y: false, drag: { x: false }, points: { size: 7 } },
        scales: { x: { time: true, range: spread }, y: times ? { distr: 3, range: decades } : { range: fromZero } },
        axes: [
          { ...axis, grid: { show: false }, values: (_, splits) => splits.map(clock), space: 84, size: 26 },
          {
            ...axis,
            size: 62,
            space: 26,
            ...(times ? { splits: powers, filter: (_, splits) => splits } : {}),
            values: (_, splits) => splits.map(times ? power : WHOLE.format),
          },
        ],
        series: [
          {},
          ...lines.map((_, line) => ({
            stroke: colours[line],
            width: 1.75,
            fill: line === 0 && !times ? `color-mix(in srgb, ${colours[0]} 12%, transparent)` : undefined,
            points: { show: false },
            spanGaps: true,
          })),
        ],
        hooks: {
          setCursor: [({ cursor }) => this.#tell(cursor.idx ?? this.#moments.length - 1)],
        },
      },
      /** @type {any} */ (this.#data()),
      this.#plot,
    );
  }
}

/** At least a minute and a half, so that the first seconds do not race through the chart.
 * @param {any} _ @param {number} least @param {number} most @returns {[number, number]} */
const spread = (_, least, most) => [Math.min(least, most - 90), most];

/** @param {any} _ @param {number} _least @param {number} most @returns {[number, number]} */
const fromZero = (_, _least, most) => [0, Math.max(4, most * 1.15)];

/** @param {any} _ @param {number | null} least @param {number | null} most @returns {[number, number]} */
function decades(_, least, most) {
  const low = 10 ** Math.floor(Math.log10(Math.max(least ?? 1e-4, 1e-5)));
  return [low, Math.max(low * 100, 10 ** Math.ceil(Math.log10(Math.max(most ?? 1e-2, 1e-5))))];
}

/** @param {any} plot @returns {number[]} */
function powers({ scales }) {
  const found = [];
  for (let power = Math.round(Math.log10(scales.y.min)); 10 ** power <= scales.y.max * 1.001; power += 1) {
    found.push(10 ** power);
  }
  return found;
}

/** @param {number} seconds a power of ten */
const power = (seconds) => (seconds < 0.99 ? `${+(seconds * 1_000).toPrecision(1)} ms` : `${Math.round(seconds)} s`);

const WHOLE = new Intl.NumberFormat();

/** @param {number} at */
const clock = (at) => new Date(at * 1_000).toLocaleTimeString([], { hour12: false });
