"use strict";
/* Draws the page of a run from its facts and its pictures. What a run says goes into text nodes alone. */
(() => {
  const LEFT = 52, RIGHT = 20;
  const HUES = ["--a", "--c", "--b", "--nan", "--d", "--e", "--bad", "--f"];
  const HUE_OF = { __proto__: null, loss: "--a", gradient_norm: "--b", batch_time: "--c", data_time: "--c", accuracy: "--a", learning_rate: "--e" };
  const MARKS = {
    nonfinite: ["▲", "nan"], spike: ["●", "bad"], slow: ["■", "warn"], ended: ["✕", "bad"], error: ["!", "bad"],
    missing: ["○", "warn"], silent: ["…", "warn"], lost: ["−", "bad"],
  };
  const byId = (id) => document.getElementById(id);
  let facts = null;

  function el(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
      else if (name === "style") for (const [property, each] of Object.entries(value)) made.style.setProperty(property, each);
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat()) {
      if (child !== null && child !== undefined && child !== "") made.append(child instanceof Node ? child : String(child));
    }
    return made;
  }
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const whole = (value) => Number(value).toLocaleString("en", { maximumFractionDigits: 0 });
  function short(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const size = Math.abs(value);
    if (!Number.isFinite(value)) return String(value);
    if (size >= 1e15 || (size > 0 && size < 1e-4)) return value.toExponential(2);
    for (const [limit, divisor, unit] of [[1e12, 1e12, "T"], [1e9, 1e9, "G"], [1e6, 1e6, "M"], [1e4, 1e3, "k"]]) {
      if (size >= limit) return +(value / divisor).toPrecision(4) + unit;
    }
    return String(+value.toPrecision(4));
  }
  const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;

  /* --- the numbers ----------------------------------------------------------------------------------------------- */

  let bytes = null;
  async function inflate(packed) {
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  function plane(told, bytes) {
    if (!told) return null;
    const [begin, count, kind] = told, size = Number(kind[1]);
    const out = new Uint8Array(count * size);
    for (let place = 0; place < size; place++) {
      for (let i = 0; i < count; i++) out[i * size + place] = bytes[begin + place * count + i];
    }
    return new { f4: Float32Array, f8: Float64Array, u4: Uint32Array, u2: Uint16Array }[kind](out.buffer);
  }
  function seriesOf(told, shift, bytes) {
    const columns = { rank: told.rank, name: told.name, first: told.first, size: 2 ** shift };
    for (const [name, value] of Object.entries(told)) if (Array.isArray(value)) columns[name] = plane(value, bytes);
    const count = columns.mean.length;
    columns.begin = Float64Array.from({ length: count }, (_, i) => told.first + i * columns.size);
    columns.middle = columns.begin.map((begin) => begin + (columns.size - 1) / 2);
    return columns;
  }
  const bad = (series, i) => (series.nan ? series.nan[i] : 0) + (series.posinf ? series.posinf[i] : 0) + (series.neginf ? series.neginf[i] : 0);

  /* --- what is looked at ----------------------------------------------------------------------------------------- */

  const view = { low: 0, high: 0, axis: "step", ranks: "band", smooth: 0 };
  let axes = Object.create(null), charts = [], heat = null;
  /* Of a server: `near(metrics, change)` brings what is finer than what the page has, `prefix` is the link's beginning. */
  let source = null;
  const hasEach = () => source !== null || facts.charts.some((chart) => chart.each);

  function readView() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const [low, high] = (asked.get("x") || "").split("..").map(Number);
    const isSpan = asked.has("x") && Number.isFinite(low) && Number.isFinite(high) && low <= high;
    view.low = isSpan ? Math.max(low, facts.span[0]) : facts.span[0];
    view.high = isSpan ? Math.min(high, facts.span[1]) : facts.span[1];
    if (view.low > view.high) [view.low, view.high] = facts.span;
    view.axis = axes[asked.get("axis")] ? asked.get("axis") : "step";
    view.ranks = asked.get("ranks") === "each" && hasEach() ? "each" : "band";
    view.smooth = Math.max(Number(asked.get("smooth")) || 0, 0);
  }
  const isWhole = () => view.low <= facts.span[0] && view.high >= facts.span[1];
  function linkOf(change) {
    const next = { ...view, ...change }, parts = source ? [source.prefix] : [];
    if (next.low > facts.span[0] || next.high < facts.span[1]) parts.push(`x=${next.low}..${next.high}`);
    if (next.axis !== "step") parts.push(`axis=${next.axis}`);
    if (next.ranks !== "band") parts.push(`ranks=${next.ranks}`);
    if (next.smooth) parts.push(`smooth=${next.smooth}`);
    return "#" + parts.join("&");
  }
  function look(change) {
    const link = linkOf(change);
    if (link === "#") history.pushState(null, "", location.pathname + location.search);
    else history.pushState(null, "", link);
    arrive();
  }
  function arrive() {
    readView();
    for (const button of document.querySelectorAll("[data-set]")) {
      const [name, value] = button.dataset.set.split("=");
      button.setAttribute("aria-pressed", String(view[name] === value));
    }
    for (const chart of charts) chart.redraw();
    if (heat) heat.draw();
    document.body.dataset.view = linkOf({});
    bring();
  }

  /* What the page lacks of the span that is looked at, of the charts that are in sight. */
  let bringing = 0;
  function bring() {
    if (!source || (isWhole() && view.ranks === "band")) return;
    clearTimeout(bringing);
    bringing = setTimeout(async () => {
      const asked = { ...view }, wanted = charts.filter((chart) => chart.isSeen && !chart.told.validation && !chart.isNear());
      if (!wanted.length) return;
      const found = await source.near(wanted.map((chart) => chart.told.metric), asked);
      if (!found || asked.low !== view.low || asked.high !== view.high || asked.ranks !== view.ranks) return;
      for (const told of found.charts) {
        const chart = wanted.find((each) => each.told.metric === told.metric);
        if (!chart) continue;
        chart.near = { ...asked, series: told.series.map((each) => seriesOf(each, told.shift, found.bytes)) };
        chart.redraw();
      }
      document.body.dataset.near = linkOf({});
      if (found.charts.length && found.charts.length < wanted.length) bring();
    }, 40);
  }

  /* Axes other than the step: where each bucket of the clock lies on them, in order. */
  function makeAxes() {
    axes = Object.create(null);
    if (!facts.clock) return;
    const [t0, t1, epochs, actives] = ["t0", "t1", "epoch", "active"].map((name) => plane(facts.clock[name], bytes));
    const clock = { t0, t1, epoch: epochs, active: actives };
    const size = 2 ** facts.clock.shift, steps = [], time = [], active = [], epoch = [];
    for (let i = 0; i < clock.t0.length; i++) {
      if (Number.isNaN(clock.t0[i])) continue;
      steps.push(facts.clock.first + i * size + (size - 1) / 2);
      time.push((clock.t0[i] + clock.t1[i]) / 2);
      active.push(clock.active[i]);
      epoch.push(clock.epoch[i]);
    }
    /* Within an epoch its buckets lie side by side. */
    for (let i = 0; i < epoch.length;) {
      let j = i + 1; // past itself, which is not equal to itself where no epoch is known
      while (j < epoch.length && epoch[j] === epoch[i]) j++;
      const begin = epoch[i];
      for (let k = i; k < j; k++) epoch[k] = begin + (k - i) / (j - i);
      i = j;
    }
    for (const [name, places] of [["time", time], ["active", active], ["epoch", epoch]]) {
      if (places.length > 1 && places.every((place) => Number.isFinite(place)) && places[places.length - 1] > places[0]) {
        for (let i = 1; i < places.length; i++) places[i] = Math.max(places[i], places[i - 1]);
        axes[name] = { steps, places };
      }
    }
    if (axes.epoch && Math.floor(axes.epoch.places[0]) === Math.floor(axes.epoch.places[axes.epoch.places.length - 1])) delete axes.epoch;
  }
  function between(from, to, value) {
    if (value <= from[0]) return to[0];
    let low = 0, high = from.length - 1;
    if (value >= from[high]) return to[high];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (from[middle] <= value) low = middle; else high = middle;
    }
    const share = from[high] > from[low] ? (value - from[low]) / (from[high] - from[low]) : 0;
    return to[low] + share * (to[high] - to[low]);
  }
  const toAxis = (step) => (view.axis === "step" ? step : between(axes[view.axis].steps, axes[view.axis].places, step));
  const fromAxis = (place) => (view.axis === "step" ? place : between(axes[view.axis].places, axes[view.axis].steps, place));

  /* --- charts ---------------------------------------------------------------------------------------------------- */

  const details = () => (facts.details || []).find((each) => each.span[0] <= view.low && each.span[1] >= view.high);
  const tip = byId("tip"), said = byId("said");
  let saying = 0;
  function say(text) {
    clearTimeout(saying);
    saying = setTimeout(() => { said.textContent = text; }, 250);
  }

  class Chart {
    constructor(told, height, hue) {
      this.told = told;
      this.height = height;
      this.hue = hue;
      this.log = null;
      this.plot = null;
      this.isSeen = false;
      this.draw = el("div", { class: "draw", style: { height: `${height}px` } });
      this.legend = el("div", { class: "legend" });
      const note = told.validation ? `of the validations, by ${told.x}` : facts.ranks.length > 1 ? `min–max and mean of ${facts.ranks.length} ranks, every record` : "min–max and mean of every record";
      this.table = el("details", { class: "as-table", on: { toggle: () => this.fillTable() } }, el("summary", {}, "as table"));
      this.figure = el(
        "figure",
        { class: "card chart", tabindex: "0", role: "group", "aria-roledescription": "chart", on: { keydown: (event) => this.key(event) } },
        el("h2", {}, told.metric, el("small", {}, note)), this.draw, this.legend, this.table,
      );
      this.cursor = null;
      this.near = null;
      charts.push(this);
      seen.observe(this.figure);
    }

    isNear() {
      return this.near && this.near.low === view.low && this.near.high === view.high && this.near.ranks === view.ranks;
    }

    renew(told) {
      this.told = told;
      this.kept = {};
      this.near = null;
      this.redraw();
    }

    /* What is drawn now: the finest that there is of the span. */
    current() {
      if (this.isNear()) return this.near.series;
      const near = !this.told.validation && details(), own = near && near.charts.find((each) => each.metric === this.told.metric);
      let told = own || this.told, name = own ? `d${facts.details.indexOf(near)}` : "whole";
      if (!own && view.ranks === "each" && this.told.each) [told, name] = [this.told.each, "each"];
      this.kept = this.kept || {};
      this.kept[name] = this.kept[name] || told.series.map((each) => seriesOf(each, told.shift, bytes));
      return this.kept[name];
    }

    redraw() {
      if (!this.isSeen) return;
      if (this.plot) this.plot.destroy();
      const series = this.current(), width = this.draw.clientWidth;
      if (!width) return;
      this.series = series;
      /* Validations lie on their own steps or epochs, and stay whole. */
      const isOwn = this.told.validation, [low, high] = isOwn ? this.told.span : [view.low, view.high];
      const across = isOwn ? (step) => step : toAxis;
      this.across = across;
      const inside = (each, i) => each.begin[i] + each.size - 1 >= low && each.begin[i] <= high;
      const range = this.range(series, inside);
      const main = series[0], data = [Array.from(main.middle, across)], drawn = [{}], bands = [];
      const clean = (values) => Array.from(values, (value) => (Number.isFinite(value) ? value : null));
      const points = main.mean.length < 60 || main.mean.reduce((count, value, i) => count + (Number.isFinite(value) && inside(main, i) ? 1 : 0), 0) < 60;
      series.forEach((each, number) => {
        const color = series.length > 1 ? (number < HUES.length ? css(HUES[number]) : css("--ink3")) : css(this.hue);
        if (series.length === 1) {
          data.push(clean(each.min), clean(each.max));
          drawn.push({ stroke: "transparent", points: { show: false }, spanGaps: true }, { stroke: "transparent", points: { show: false }, spanGaps: true });
          bands.push({ series: [2, 1], fill: color + "2e" });
        }
        const mean = view.smooth ? smoothed(each, view.smooth) : each.mean;
        data.push(clean(mean));
        drawn.push({ stroke: color, width: 1.5, spanGaps: true, points: { show: points, size: 5, fill: color } });
      });
      const font = "11.5px system-ui, sans-serif", grid = { stroke: css("--grid"), width: 1 };
      const axis = { stroke: css("--ink3"), grid, ticks: { show: false }, font };
      const isTime = view.axis === "time" && !isOwn;
      this.plot = new uPlot({
        width, height: this.height, pxAlign: 0, padding: [14, RIGHT, 0, 0], legend: { show: false },
        cursor: {
          ...(isOwn ? {} : { sync: { key: "advlog" } }), drag: { x: !isOwn, y: false, setScale: false }, points: { size: 6 },
          bind: { dblclick: () => () => look({ low: facts.span[0], high: facts.span[1] }) },
        },
        scales: {
          x: { time: isTime, range: () => [across(low), across(high) > across(low) ? across(high) : across(low) + 1] },
          y: { distr: range.log ? 3 : 1, range: () => [range.low, range.high] },
        },
        axes: [
          { ...axis, size: 26, ...(isTime ? {} : { values: (_, ticks) => ticks.map((tick) => short(tick)) }) },
          { ...axis, size: LEFT, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick))) },
        ],
        series: drawn, bands,
        hooks: {
          draw: [(plot) => this.mark(plot, series, range, inside)],
          setCursor: [(plot) => this.hover(plot)],
          setSelect: [(plot) => {
            if (plot.select.width < 4) return;
            const from = fromAxis(plot.posToVal(plot.select.left, "x"));
            const to = fromAxis(plot.posToVal(plot.select.left + plot.select.width, "x"));
            look({ low: Math.floor(from), high: Math.ceil(to) });
          }],
        },
      }, data, this.draw);
      this.plot.root.setAttribute("aria-hidden", "true"); // the figure says it in words
      this.plot.over.addEventListener("mouseleave", () => { tip.style.display = "none"; });
      this.describe(series, inside);
      this.legend.replaceChildren(...this.legends(series));
      if (this.table.open) this.fillTable(true);
    }

    range(series, inside) {
      const ends = [], means = [];
      for (const each of series) {
        for (let i = 0; i < each.mean.length; i++) {
          if (!inside(each, i) || !Number.isFinite(each.mean[i])) continue;
          ends.push(each.min[i], each.max[i]);
          means.push(each.mean[i]);
        }
      }
      if (!ends.length) return { low: 0, high: 1, log: false };
      ends.sort((a, b) => a - b);
      means.sort((a, b) => a - b);
      const cut = Math.floor(ends.length * 0.002), spread = Math.floor(means.length * 0.002);
      const log = this.log === null ? ends[0] > 0 && means[means.length - 1 - spread] / 30 > means[spread] : this.log && ends[0] > 0;
      const [low, high] = nearlyAll(ends.slice(cut, ends.length - cut), log);
      if (log) return { low: low / 1.25, high: high * 1.6, log };
      const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
      return { low: low - room, high: high + room * 1.6, log };
    }

    mark(plot, series, range, inside) {
      const ctx = plot.ctx, ratio = devicePixelRatio, { left, top, width, height } = plot.bbox;
      const triangle = (x, y, way) => {
        ctx.beginPath();
        ctx.moveTo(x, y);
        ctx.lineTo(x - 5 * ratio, y + 9 * ratio * way);
        ctx.lineTo(x + 5 * ratio, y + 9 * ratio * way);
        ctx.fill();
      };
      const place = (step) => plot.valToPos(this.across(step), "x", true);
      ctx.save();
      ctx.fillStyle = css("--nan");
      for (const each of series) {
        for (let i = 0; i < each.mean.length; i++) {
          if (!bad(each, i) || !inside(each, i)) continue;
          const x = place(each.middle[i]);
          ctx.globalAlpha = 0.2;
          ctx.fillRect(x - 1.5 * ratio, top, 3 * ratio, height);
          ctx.globalAlpha = 1;
          triangle(x, top + ratio, 1);
        }
      }
      ctx.fillStyle = css("--bad");
      ctx.textBaseline = "middle";
      ctx.font = `600 ${11.5 * ratio}px system-ui, sans-serif`;
      const taken = [];
      for (const { value, step, rank } of this.told.marks || []) {
        if (step < view.low || step > view.high || (value <= range.high && value >= range.low)) continue;
        const x = place(step), way = value > range.high ? 1 : -1, y = way > 0 ? top + 2 * ratio : top + height - 2 * ratio;
        ctx.globalAlpha = 0.35;
        ctx.fillRect(x - 0.75 * ratio, top, 1.5 * ratio, height);
        ctx.globalAlpha = 1;
        triangle(x, y, way);
        const text = short(value) + (facts.ranks.length > 1 && rank !== null ? ` · rank ${rank}` : ""), wide = ctx.measureText(text).width;
        const isRight = x + wide + 14 * ratio > left + width, from = isRight ? x - wide - 9 * ratio : x + 9 * ratio;
        if (taken.some(([a, b, w]) => w === way && from < b && from + wide > a)) continue;
        taken.push([from, from + wide, way]);
        ctx.textAlign = "left";
        ctx.fillText(text, from, y + 6 * ratio * way);
      }
      ctx.restore();
    }

    /* A bucket may be narrower than a pixel: of those beside the cursor, one with a mark is meant. */
    under(plot) {
      const index = plot.cursor.idx, each = this.series[0], marks = this.told.marks || [];
      const isMarked = (i) => bad(each, i) || marks.some(({ step }) => step >= each.begin[i] && step < each.begin[i] + each.size);
      const isBeside = (i) => i >= 0 && i < each.mean.length && Math.abs(plot.valToPos(this.across(each.middle[i]), "x") - plot.cursor.left) <= 4;
      for (let away = 0; away < 12; away++) {
        for (const i of [index - away, index + away]) if (isBeside(i) && isMarked(i)) return i;
      }
      return index;
    }

    hover(plot) {
      if (plot.cursor.idx === null || plot.cursor.idx === undefined || plot.cursor.left < 0 || !plot.over.matches(":hover")) return;
      const lines = this.told_at(this.under(plot)), over = plot.over.getBoundingClientRect();
      tip.replaceChildren(...lines.map((line, i) => el("div", {}, i ? line : el("b", {}, line))));
      tip.style.display = "block";
      const left = over.left + plot.cursor.left + 14 + scrollX, wide = tip.offsetWidth;
      tip.style.left = `${Math.max(8, left + wide > scrollX + innerWidth - 12 ? left - wide - 28 : left)}px`;
      tip.style.top = `${over.top + plot.cursor.top + 14 + scrollY}px`;
    }

    /* What a bucket says, as sentences: for the eye and for a screen reader. */
    told_at(index) {
      const each = this.series[0], begin = each.begin[index], last = begin + each.size - 1, lines = [];
      const name = facts.x === "record" ? "record" : "step";
      lines.push(`${this.told.metric}, ${name} ${whole(begin)}${last > begin ? `–${whole(last)}` : ""}`);
      if (this.series.length > 1) {
        this.series.slice(0, 8).forEach((one) => lines.push(`rank ${one.rank}: ${short(one.mean[index])}`));
        return lines;
      }
      const by = (ranks) => (ranks ? `, rank ${ranks[index]}` : "");
      if (Number.isFinite(each.mean[index])) {
        if (each.min[index] === each.max[index]) lines.push(`${short(each.mean[index])}${by(each.rank_max)}`);
        else {
          lines.push(`mean ${short(each.mean[index])} of ${whole(each.count[index])}`);
          lines.push(`max ${short(each.max[index])} at ${name} ${whole(begin + each.argmax[index])}${by(each.rank_max)}`);
          lines.push(`min ${short(each.min[index])} at ${name} ${whole(begin + each.argmin[index])}${by(each.rank_min)}`);
        }
      }
      const counted = [["nan", "NaN"], ["posinf", "inf"], ["neginf", "-inf"]].filter(([key]) => each[key] && each[key][index]);
      if (counted.length) lines.push("▲ " + counted.map(([key, word]) => `${whole(each[key][index])} ${word}`).join(", "));
      if (each.unresolved && each.unresolved[index]) lines.push(`${whole(each.unresolved[index])} never came from the GPU`);
      if (!each.records[index]) lines.push("no record");
      else if (lines.length === 1) lines.push("not logged here");
      return lines;
    }

    describe(series, inside) {
      const each = series[0], there = [];
      let count = 0;
      for (let i = 0; i < each.mean.length; i++) {
        if (!inside(each, i)) continue;
        count += bad(each, i);
        if (Number.isFinite(each.mean[i])) there.push(i);
      }
      const ends = there.length ? `from ${short(each.mean[there[0]])} to ${short(each.mean[there[there.length - 1]])}` : "no finite value";
      const more = count ? `, ${plural(count, "value")} not finite` : "";
      this.figure.setAttribute("aria-label", `${this.told.metric}: ${ends} over ${facts.x} ${whole(view.low)} to ${whole(view.high)}${more}. Arrow keys read it, Enter zooms in, Escape out.`);
    }

    legends(series) {
      const items = [];
      if (series.length > 1) {
        series.slice(0, HUES.length).forEach((each, i) => items.push(el("span", {}, el("i", { style: { background: `var(${HUES[i]})` } }), `rank ${each.rank}`)));
        if (series.length > HUES.length) items.push(el("span", {}, `and ${series.length - HUES.length} more, in grey`));
      }
      if (series.some((each) => each.nan || each.posinf || each.neginf)) items.push(el("span", { class: "nan" }, "▲ not finite"));
      if (series.some((each) => each.unresolved)) items.push(el("span", {}, "some values never came from the GPU"));
      if (this.told.more) items.push(el("span", { class: "bad" }, `and ${plural(this.told.more, "more place")} far off the band`));
      return items;
    }

    fillTable(again) {
      if (!this.table.open || (this.table.children.length > 1 && !again) || !this.series) return;
      while (this.table.children.length > 1) this.table.lastChild.remove();
      const each = this.series[0], rows = [];
      for (let i = 0; i < each.mean.length && rows.length < 500; i++) {
        if (each.begin[i] + each.size - 1 < view.low || each.begin[i] > view.high || !each.records[i]) continue;
        rows.push([whole(each.begin[i]), short(each.mean[i]), short(each.min[i]), short(each.max[i]), whole(each.count[i]), whole(bad(each, i))]);
      }
      this.table.append(el("div", { class: "scroll" }, table([facts.x, "mean", "min", "max", "values", "not finite"], rows, [0, 1, 2, 3, 4, 5])));
    }

    key(event) {
      if (event.target !== this.figure || !this.series) return;
      const each = this.series[0], there = [];
      for (let i = 0; i < each.mean.length; i++) if (each.records[i] && each.begin[i] + each.size - 1 >= view.low && each.begin[i] <= view.high) there.push(i);
      if (!there.length) return;
      const at = this.cursor === null ? -1 : there.findIndex((i) => i >= this.cursor), stride = event.shiftKey ? 20 : 1;
      const next = { ArrowRight: Math.min(at + stride, there.length - 1), ArrowLeft: Math.max(at - stride, 0), Home: 0, End: there.length - 1 }[event.key];
      if (next !== undefined) {
        this.cursor = there[Math.max(next, 0)];
        this.plot.setCursor({ left: this.plot.valToPos(this.across(each.middle[this.cursor]), "x"), top: this.plot.over.clientHeight / 2 });
        say(this.told_at(this.cursor).join(", "));
      } else if (event.key === "Enter" && this.cursor !== null) {
        const reach = Math.max(Math.round((view.high - view.low) / 20), 5), middle = Math.round(each.middle[this.cursor]);
        look({ low: Math.max(middle - reach, facts.span[0]), high: Math.min(middle + reach, facts.span[1]) });
        say(`zoomed to ${facts.x} ${whole(view.low)} to ${whole(view.high)}`);
      } else if (event.key === "Escape") {
        look({ low: facts.span[0], high: facts.span[1] });
        say("the whole run");
      } else return;
      event.preventDefault();
    }
  }

  /* The ends of all but the few that lie far from the others. */
  function nearlyAll(ends, log) {
    const scaled = (value) => (log ? Math.log10(value) : value), tenth = Math.floor(ends.length / 10);
    const first = scaled(ends[tenth]), last = scaled(ends[ends.length - 1 - tenth]), reach = 4 * (last - first);
    const near = ends.filter((value) => first - reach <= scaled(value) && scaled(value) <= last + reach);
    const kept = last > first && ends.length - near.length <= Math.max(4, ends.length / 100) ? near : ends;
    return [kept[0], kept[kept.length - 1]];
  }

  function smoothed(series, half) {
    let held = 0, weight = 0, before = null;
    return series.mean.map((mean, i) => {
      if (before !== null) {
        weight *= 2 ** (-(series.middle[i] - before) / half);
      }
      before = series.middle[i];
      if (!Number.isFinite(mean)) return NaN;
      weight += series.count[i];
      const share = series.count[i] / weight;
      held = held * (1 - share) + mean * share;
      return held;
    });
  }

  /* Charts are drawn when they come into sight: a run may have a thousand metrics. */
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const chart = charts.find((each) => each.figure === entry.target);
      if (!entry.isIntersecting || !chart || chart.isSeen) continue;
      chart.isSeen = true;
      chart.redraw();
      bring();
    }
  }, { rootMargin: "400px" });

  /* --- heat map -------------------------------------------------------------------------------------------------- */

  class Heat {
    constructor(told) {
      this.told = told;
      this.ratio = plane(told.ratio, bytes);
      this.mean = plane(told.mean, bytes);
      const tall = Math.max(3, Math.min(19, Math.floor(600 / told.ranks.length)));
      this.canvas = el("canvas", { role: "img", tabindex: "0", style: { height: `${tall * told.ranks.length}px` } });
      const every = Math.max(1, Math.ceil(12 / tall));
      const names = told.ranks.map((rank, i) => el("span", { style: { "line-height": `${tall}px`, height: `${tall}px` } }, i % every ? "" : `r${rank}`));
      this.card = el(
        "section", { class: "card c12" },
        el("h2", {}, `${told.metric} by rank`, el("small", {}, "each cell against the median of the ranks at that step")),
        el("div", { class: "heat" }, el("div", { class: "names", "aria-hidden": "true" }, names), this.canvas),
        el("div", { class: "scale" }, "0.7×", el("i", {}), "2× the median"),
      );
      const slow = facts.findings.find((each) => each.kind === "slow");
      this.canvas.setAttribute("aria-label", `${told.metric} of each rank over the median of all: ${slow ? slow.text : "no rank was slow for long"}`);
      this.canvas.addEventListener("mousemove", (event) => this.hover(event));
      this.canvas.addEventListener("mouseleave", () => { tip.style.display = "none"; });
    }

    columns() {
      const size = 2 ** this.told.shift, from = (view.low - this.told.first) / size, to = (view.high + 1 - this.told.first) / size;
      return [Math.max(from, 0), Math.min(to, this.told.columns)];
    }

    draw() {
      const { columns, ranks } = this.told, image = new ImageData(columns, ranks.length), middle = rgb(css("--grid"));
      for (let i = 0; i < this.ratio.length; i++) image.data.set([...heatHue(this.ratio[i], middle), Number.isNaN(this.ratio[i]) ? 0 : 255], i * 4);
      const whole = document.createElement("canvas");
      whole.width = columns;
      whole.height = ranks.length;
      whole.getContext("2d").putImageData(image, 0, 0);
      const ratio = devicePixelRatio, ctx = this.canvas.getContext("2d");
      this.canvas.width = Math.max(1, this.canvas.clientWidth * ratio);
      this.canvas.height = Math.max(1, this.canvas.clientHeight * ratio);
      ctx.imageSmoothingEnabled = false;
      const [from, to] = this.columns();
      ctx.drawImage(whole, from, 0, Math.max(to - from, 0.01), ranks.length, 0, 0, this.canvas.width, this.canvas.height);
    }

    hover(event) {
      const box = this.canvas.getBoundingClientRect(), [from, to] = this.columns(), size = 2 ** this.told.shift;
      const column = Math.floor(from + ((event.clientX - box.left) / box.width) * (to - from));
      const row = Math.floor(((event.clientY - box.top) / box.height) * this.told.ranks.length);
      const at = row * this.told.columns + column, begin = this.told.first + column * size;
      if (row < 0 || row >= this.told.ranks.length || column < 0 || column >= this.told.columns) return;
      const ratio = Number.isNaN(this.ratio[at]) ? "no value" : `${this.ratio[at].toFixed(2)} times the median, mean ${short(this.mean[at])} s`;
      tip.replaceChildren(el("div", {}, el("b", {}, `rank ${this.told.ranks[row]}, step ${whole(begin)}${size > 1 ? `–${whole(begin + size - 1)}` : ""}`)), el("div", {}, ratio));
      tip.style.display = "block";
      tip.style.left = `${Math.max(8, Math.min(event.pageX + 14, scrollX + innerWidth - tip.offsetWidth - 12))}px`;
      tip.style.top = `${event.pageY + 14}px`;
    }
  }
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  function heatHue(ratio, middle) {
    const log = Math.log2(ratio), mix = (a, b, share) => a.map((value, i) => Math.round(value + (b[i] - value) * share));
    if (Number.isNaN(log)) return middle;
    if (log < 0) return mix(middle, [91, 141, 239], Math.min(1, -log * 2));
    return log < 0.5 ? mix(middle, [255, 176, 0], log * 2) : mix([255, 176, 0], [209, 73, 91], Math.min(1, (log - 0.5) * 2));
  }

  /* --- the page -------------------------------------------------------------------------------------------------- */

  function table(head, rows, numbers = []) {
    const isNumber = (i) => (numbers.includes(i) ? "n" : null);
    return el(
      "table", {},
      el("thead", {}, el("tr", {}, head.map((each, i) => el("th", { class: isNumber(i), scope: "col" }, each)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((each, i) => el("td", { class: isNumber(i) }, each === null ? "–" : each))))),
    );
  }
  function segment(name, choices, label) {
    return el("span", { class: "seg", role: "group", "aria-label": label }, choices.map(([value, text]) =>
      el("button", { type: "button", "data-set": `${name}=${value}`, "aria-pressed": "false", on: { click: () => look({ [name]: value }) } }, text || value)));
  }

  function header() {
    const hosts = new Set(facts.ranks.map((each) => each.host).filter(Boolean)), last = facts.attempts[facts.attempts.length - 1];
    const choices = [["step", facts.x], ...["time", "epoch", "active"].filter((name) => axes[name]).map((name) => [name])];
    byId("head").replaceChildren(...[
      source ? el("a", { class: "logo", href: "#" }, "advlog") : el("span", { class: "logo" }, "advlog"), el("h1", {}, facts.name),
      el("span", { class: `pill ${facts.status}` }, el("i", {}), facts.status),
      last ? el("span", { class: "pill" }, facts.attempts.length > 1 ? `${facts.attempts.length} attempts` : `attempt ${last.attempt}`) : null,
      el("span", { class: "pill" }, plural(facts.ranks.length, "rank") + (hosts.size ? ` · ${plural(hosts.size, "host")}` : "")),
      el("span", { class: "gap" }),
      choices.length > 1 ? segment("axis", choices, "x axis") : null,
      hasEach() && facts.ranks.length > 1 ? segment("ranks", [["band"], ["each", "each rank"]], "ranks") : null,
      el("label", { class: "pill" }, "smooth", smoothing()),
      ...(source ? source.controls() : []),
      el("span", { class: "seg", role: "group", "aria-label": "theme" }, themeButton()),
    ].filter(Boolean));
  }
  function smoothing() {
    const span = facts.span[1] - facts.span[0] + 1, powers = [0];
    for (let half = 1; half < span / 4; half *= 4) powers.push(half);
    const select = el("select", { "aria-label": "smoothing, half-life in steps", on: { change: () => look({ smooth: Number(select.value) }) } },
      powers.map((half) => el("option", { value: half }, half ? whole(half) : "off")));
    return select;
  }
  const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  function themeButton() {
    const button = el("button", { type: "button", "aria-pressed": String(isDark()), on: { click: () => {
      document.documentElement.dataset.theme = isDark() ? "light" : "dark";
      button.setAttribute("aria-pressed", String(isDark()));
      arrive();
    } } }, "dark");
    return button;
  }

  function kpis() {
    return el("dl", { class: "kpis", "aria-label": "summary" }, facts.kpis.map((each) =>
      el("div", {}, el("dt", {}, each.label), el("dd", { class: each.tone }, each.value), el("dd", { class: "note" }, each.note || ""))));
  }

  function timeline() {
    const [low, high] = facts.span, wide = Math.max(high - low, 1), percent = (step) => `${(100 * (Math.min(Math.max(step, low), high) - low)) / wide}%`;
    const spans = facts.attempts.filter((each) => each.span).map((each) => el("i", {
      class: each.status, title: `attempt ${each.attempt}, ${each.status}: step ${whole(each.span[0])} to ${whole(each.span[1])}`,
      style: { left: percent(each.span[0]), width: `${(100 * (each.span[1] - each.span[0])) / wide}%` },
    }));
    const found = facts.findings.filter((each) => each.step !== null && each.span).map((each) => {
      const [mark, tone] = MARKS[each.kind] || ["●", ""];
      return el("a", { class: tone, href: linkOf({ low: each.span[0], high: each.span[1] }), title: each.text, "aria-label": each.text, style: { left: percent(each.step) } }, mark);
    });
    const slow = facts.findings.filter((each) => each.kind === "slow" && each.span).map((each) =>
      el("i", { class: "slow", title: each.text, style: { left: percent(each.span[0]), width: `${(100 * (each.span[1] - each.span[0])) / wide}%` } }));
    const events = facts.events.slice(0, 60).map((each) => el("i", {
      class: each.kind === "error" ? "failed" : "event", title: `${each.text}, step ${whole(each.step)}`, style: { left: percent(each.step), width: "3px" },
    }));
    return el("section", { class: "card c12 lanes", "aria-label": "timeline" },
      el("div", { class: "lane" }, el("span", {}, facts.attempts.length > 1 ? "attempts" : "attempt"), el("div", { class: "bar" }, spans)),
      events.length ? el("div", { class: "lane" }, el("span", {}, "events"), el("div", { class: "bar" }, events)) : null,
      slow.length || found.length ? el("div", { class: "lane" }, el("span", {}, "findings"), el("div", { class: "bar" }, slow, found)) : null);
  }

  function findings() {
    const items = facts.findings.slice(0, 8).map((each) => {
      const [mark, tone] = MARKS[each.kind] || ["●", ""];
      const link = each.span ? el("a", { href: linkOf({ low: each.span[0], high: each.span[1] }), "aria-label": `zoom to ${facts.x} ${whole(each.step)}` }, whole(each.step)) : null;
      return el("li", {}, el("span", { class: `mark ${tone}`, "aria-hidden": "true" }, mark), el("span", {}, each.text), link);
    });
    const { shown, rows, lost } = facts.account, gone = Object.values(lost).reduce((a, b) => a + b, 0);
    let [mark, tone, text] = ["✓", "ok", `nothing hidden: all ${plural(rows, "record")} are in the pictures`];
    if (gone) [mark, tone, text] = ["−", "bad", `${plural(gone, "accepted record")} in no file`];
    else if (shown < rows) [mark, tone, text] = ["○", "warn", `${whole(shown)} of ${plural(rows, "record")} are in the pictures: the others have no step, or are of child processes`];
    items.push(el("li", {}, el("span", { class: `mark ${tone}`, "aria-hidden": "true" }, mark), el("span", {}, text)));
    const more = facts.findings.length - 8;
    return el("section", { class: "card c4" }, el("h2", {}, "Look here first"), el("ul", { class: "find" }, items),
      more > 0 ? el("p", { class: "hint" }, `and ${more} more`) : null,
      ...facts.notes.map((note) => el("p", { class: "hint" }, note)),
      el("p", { class: "hint" }, "Drag over a chart to zoom, double-click for the whole run."));
  }

  function ranks() {
    const isOne = facts.ranks.length === 1;
    const rows = facts.ranks.slice(0, 64).map((each) => {
      const ratio = each.ratio === null ? null : each.ratio.toFixed(2);
      return [each.rank, each.host, each.status, whole(each.records), each.last_step === null ? null : whole(each.last_step), each.ratio > 1.1 ? el("span", { class: "warn" }, ratio) : ratio];
    });
    const head = ["rank", "host", "status", "records", "last step", "× median"];
    return el("section", { class: "card c6" }, el("h2", {}, isOne ? "Process" : "Ranks"),
      el("div", { class: "scroll" }, table(isOne ? head.slice(0, 5) : head, isOne ? rows.map((row) => row.slice(0, 5)) : rows, [3, 4, 5])),
      facts.ranks.length > 64 ? el("p", { class: "hint" }, `and ${facts.ranks.length - 64} more ranks`) : null);
  }
  function errors() {
    if (!facts.errors.length) return null;
    return el("section", { class: "card c12" }, el("h2", {}, "Errors", el("small", {}, plural(facts.errors.length, "entry").replace("entrys", "entries"))),
      el("div", { class: "scroll" }, table(["time", "where", "type", "message"], facts.errors.map((each) => [
        each.time ? each.time.slice(0, 19).replace("T", " ") : null, `attempt ${each.attempt}, rank ${each.rank}${each.operation ? `, ${each.operation}` : ""}`, each.type, each.message,
      ]))));
  }
  function settings(title, rows) {
    if (!rows.length) return null;
    return el("section", { class: "card c6" }, el("h2", {}, title), el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, rows.map((row) =>
      el("tr", {}, row.map((each, i) => (i ? el("td", {}, each) : el("th", { scope: "row" }, each)))))))));
  }

  /* Cards that are made anew when a live run goes on. */
  let cards = [];
  function card(make) {
    const made = make() || el("span", { hidden: true });
    cards.push({ made, make });
    return made;
  }

  function page() {
    const main = byId("main"), told = [...facts.charts], loss = told.findIndex((each) => each.metric === "loss");
    cards = [];
    main.replaceChildren(card(kpis), card(() => (facts.attempts.length && facts.span[1] > facts.span[0] ? timeline() : null)));
    const first = told.length ? told.splice(Math.max(loss, 0), 1)[0] : null;
    if (first) {
      const chart = new Chart(first, 300, HUE_OF[first.metric] || "--a");
      chart.figure.classList.add("c8");
      main.append(chart.figure);
    } else main.append(el("section", { class: "card c8" }, el("h2", {}, "No metric was logged yet")));
    main.append(card(findings));
    main.append(card(() => {
      heat = facts.heat ? new Heat(facts.heat) : null;
      return heat && heat.card;
    }));
    const groups = new Map();
    for (const each of told) {
      const prefix = told.length > 12 && each.metric.includes("/") ? each.metric.split("/")[0] : "";
      if (!groups.has(prefix)) groups.set(prefix, []);
      groups.get(prefix).push(each);
    }
    for (const [prefix, members] of groups) {
      let into = main;
      if (prefix && members.length > 1) {
        into = el("div", {});
        main.append(el("details", { class: "group", open: groups.size < 4 }, el("summary", {}, `${prefix} (${members.length})`), into));
      }
      members.forEach((each, i) => {
        const chart = new Chart(each, 180, HUE_OF[each.metric] || HUES[(i * 2) % HUES.length]);
        chart.figure.classList.add("c6");
        into.append(chart.figure);
      });
    }
    for (const make of [ranks, () => settings("Configuration", facts.config), () => settings("Changed since the attempt before", facts.changes), () => settings("Made by", facts.provenance), errors]) main.append(card(make));
    if (source) main.append(...source.cards());
    main.append(card(() => el("footer", {}, facts.taken ? `as of ${facts.taken.replace("T", " ").replace("+00:00", " UTC")}` : "")));
  }

  function show(newFacts, newBytes, newSource = null) {
    [facts, bytes, source] = [newFacts, newBytes, newSource];
    for (const chart of charts) seen.unobserve(chart.figure);
    [charts, heat] = [[], null];
    makeAxes();
    readView();
    header();
    page();
    arrive();
    document.body.dataset.ready = "yes";
  }

  /* The same run, later: what is open, in sight or focused stays so. */
  function refresh(newFacts, newBytes) {
    const names = (told) => told.charts.map((each) => each.metric).join("\n");
    const wasWhole = isWhole();
    if (names(newFacts) !== names(facts)) {
      show(newFacts, newBytes, source);
      return;
    }
    [facts, bytes] = [newFacts, newBytes];
    makeAxes();
    readView();
    if (wasWhole) [view.low, view.high] = facts.span;
    for (const each of cards) {
      const made = each.make() || el("span", { hidden: true });
      each.made.replaceWith(made);
      each.made = made;
    }
    for (const told of facts.charts) charts.find((chart) => chart.told.metric === told.metric).renew(told);
    if (heat) heat.draw();
    bring();
  }

  let isListening = false;
  function listen() {
    if (isListening) return;
    isListening = true;
    const again = () => { if (facts && (!source || source.isHere())) arrive(); };
    addEventListener("hashchange", again);
    addEventListener("popstate", again);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
    let resizing = 0;
    addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(again, 120); });
  }

  function fail(error) {
    byId("main").replaceChildren(el("section", { class: "card c12" }, el("h2", {}, "This page could not be drawn"), el("p", {}, String(error))));
  }
  window.advlog = { show, refresh, inflate, el, table, whole, short, plural, seriesOf, css, HUES, Chart, listen, fail, byId };

  if (byId("facts")) {
    (async () => {
      listen();
      const packed = Uint8Array.from(atob(byId("data").textContent.trim()), (character) => character.charCodeAt(0));
      show(JSON.parse(byId("facts").textContent), await inflate(packed));
    })().catch((error) => {
      fail(error);
      throw error;
    });
  }
})();
