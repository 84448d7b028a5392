"use strict";
/* The pages of `advlog ui`: the table of runs, one run as it grows, runs over each other. */
(() => {
  const { show, refresh, inflate, el, table, whole, short, plural, seriesOf, css, HUES, listen, fail, byId } = window.advlog;
  const KEY = "advlog-token";
  const NOTES = "advlog-notes";

  /* The token comes behind the #, which no server and no log sees, and is wiped from the address at once. */
  function takeToken() {
    const asked = new URLSearchParams(location.hash.slice(1));
    if (!asked.has("token")) return;
    sessionStorage.setItem(KEY, asked.get("token"));
    asked.delete("token");
    history.replaceState(null, "", `${location.pathname}#${asked}`);
  }
  async function get(path, signal) {
    const answer = await fetch(path, { headers: { authorization: `Bearer ${sessionStorage.getItem(KEY) || ""}` }, signal, cache: "no-store" });
    if (answer.status === 401) throw new Refused();
    if (!answer.ok) throw new Error(await answer.text());
    return answer;
  }
  class Refused extends Error {}
  async function getPacked(path) {
    const data = new Uint8Array(await (await get(path)).arrayBuffer()), length = new DataView(data.buffer).getUint32(0, true);
    const facts = JSON.parse(new TextDecoder().decode(data.subarray(4, 4 + length)));
    return [facts, await inflate(data.subarray(4 + length))];
  }
  function refused() {
    byId("head").replaceChildren(el("span", { class: "logo" }, "advlog"), el("h1", {}, "not signed in"));
    byId("main").replaceChildren(el("section", { class: "card c12" }, el("h2", {}, "This page needs its link"),
      el("p", {}, "Open the address that `advlog ui` printed, with everything behind the #. Each start has a link of its own.")));
    document.body.dataset.ready = "refused";
  }
  async function save(path, name) {
    const url = URL.createObjectURL(await (await get(path)).blob());
    el("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  /* --- which page ------------------------------------------------------------------------------------------------- */

  const place = () => new URLSearchParams(location.hash.slice(1));
  /* What was asked for last is shown: an answer that comes later than that is of a page that was left. */
  let now = "", leave = () => {}, turn = 0;
  async function arrive() {
    takeToken();
    const asked = place(), run = asked.get("run"), runs = asked.getAll("with");
    const next = runs.length > 1 ? `with ${runs.join(" ")} ${asked.get("metric") || ""} ${asked.get("x") || ""}` : run ? `run ${run}` : "runs";
    if (next === now) return;
    now = next;
    const mine = ++turn, isHere = () => mine === turn;
    leave();
    leave = () => {};
    delete document.body.dataset.ready;
    try {
      if (runs.length > 1) await together(runs, asked, isHere);
      else if (run) await one(run, isHere);
      else await all(isHere);
    } catch (error) {
      if (!isHere()) return;
      if (error instanceof Refused) refused();
      else {
        fail(error);
        document.body.dataset.ready = "failed";
      }
    }
  }

  /* --- the table of runs ------------------------------------------------------------------------------------------ */

  const keyOf = (row) => `${row.folder}/${row.name}`;
  const notes = () => JSON.parse(localStorage.getItem(NOTES) || "{}");
  const duration = (seconds) => {
    if (seconds === null || seconds === undefined) return "–";
    if (seconds >= 3600) return `${Math.floor(seconds / 3600)} h ${String(Math.floor(seconds / 60) % 60).padStart(2, "0")} min`;
    return seconds >= 60 ? `${Math.floor(seconds / 60)} min ${String(Math.floor(seconds) % 60).padStart(2, "0")} s` : `${short(+seconds.toPrecision(3))} s`;
  };
  const VALUES = {
    name: (row) => row.name, status: (row) => row.status, started: (row) => row.started || "", duration_s: (row) => row.duration_s,
    records: (row) => row.records, errors: (row) => row.errors, loss: (row) => row.loss, loss_min: (row) => row.loss_min, ranks: (row) => row.ranks,
  };

  async function all(isHere) {
    byId("head").replaceChildren(el("span", { class: "logo" }, "advlog"), el("h1", {}, "runs"), el("span", { class: "gap" }), theme());
    let rows = [], order = ["started", -1], search = "";
    const chosen = new Set();
    const counted = el("small", {}), body = el("div", { class: "scroll tall" });
    const compare = el("button", { type: "button", class: "plain", disabled: true, on: { click: () => { location.hash = [...chosen].map((key) => `with=${encodeURIComponent(key)}`).join("&"); } } }, "compare");
    const box = el("input", { type: "search", placeholder: "name, group, tag or setting=value", "aria-label": "search runs", on: { input: () => { search = box.value.toLowerCase(); draw(); } } });
    byId("main").replaceChildren(el("section", { class: "card c12" }, el("h2", {}, "Runs", counted), el("div", { class: "tools" }, box, compare), body));

    function differing() {
      const seen = new Map();
      for (const row of rows) for (const [name, value] of Object.entries(row.config)) {
        if (!seen.has(name)) seen.set(name, new Map());
        seen.get(name).set(value, (seen.get(name).get(value) || 0) + 1);
      }
      const have = (name) => [...seen.get(name).values()].reduce((a, b) => a + b, 0);
      return [...seen.keys()].filter((name) => seen.get(name).size > 1 || have(name) < rows.filter((row) => Object.keys(row.config).length).length).slice(0, 6);
    }
    function textOf(row) {
      return [row.name, row.group, ...(row.tags || []), row.status, ...Object.entries(row.config).map(([name, value]) => `${name}=${value}`), notes()[keyOf(row)]].join(" ").toLowerCase();
    }
    function draw() {
      const settings = differing(), of = VALUES[order[0]] || ((row) => row.config[order[0].slice(7)]);
      const found = rows.filter((row) => search.split(/\s+/).every((word) => textOf(row).includes(word)));
      found.sort((a, b) => {
        const [x, y] = [of(a), of(b)];
        if (x === y) return 0;
        if (x === null || x === undefined) return 1;
        if (y === null || y === undefined) return -1;
        const [p, q] = [Number(x), Number(y)];
        return order[1] * (Number.isFinite(p) && Number.isFinite(q) && x !== "" && y !== "" ? p - q : x < y ? -1 : 1);
      });
      counted.textContent = found.length === rows.length ? plural(rows.length, "run") : `${whole(found.length)} of ${plural(rows.length, "run")}`;
      const columns = [["name", "run"], ["status", "status"], ["started", "started"], ["duration_s", "duration"], ["ranks", "ranks"], ["records", "records"], ["loss", "loss, last"], ["loss_min", "lowest"], ["errors", "errors"], ...settings.map((name) => [`config.${name}`, name])];
      const numbers = new Set(["duration_s", "ranks", "records", "loss", "loss_min", "errors"]);
      const head = columns.map(([key, text]) => el("th", { scope: "col", class: numbers.has(key) ? "n" : null, "aria-sort": order[0] === key ? (order[1] > 0 ? "ascending" : "descending") : null },
        el("button", { type: "button", class: "sort", on: { click: () => { order = [key, order[0] === key ? -order[1] : key === "started" ? -1 : 1]; draw(); } } }, text + (order[0] === key ? (order[1] > 0 ? " ▴" : " ▾") : ""))));
      const lines = found.slice(0, 500).map((row) => {
        const key = keyOf(row);
        const pick = el("input", { type: "checkbox", "aria-label": `compare ${row.name}`, checked: chosen.has(key), on: { change: () => {
          if (pick.checked) chosen.add(key); else chosen.delete(key);
          compare.disabled = chosen.size < 2;
          compare.textContent = chosen.size > 1 ? `compare ${chosen.size}` : "compare";
        } } });
        return el("tr", {},
          el("td", {}, pick),
          el("td", {}, el("a", { href: `#run=${encodeURIComponent(key)}` }, row.name), row.group ? el("small", {}, ` ${row.group}`) : null, ...(row.tags || []).map((tag) => el("small", { class: "tag" }, tag)), note(key)),
          el("td", {}, el("span", { class: `pill ${row.status}` }, el("i", {}), row.status || "–")),
          el("td", {}, row.started ? row.started.slice(0, 16).replace("T", " ") : "–"), el("td", { class: "n" }, duration(row.duration_s)),
          el("td", { class: "n" }, row.ranks), el("td", { class: "n" }, row.records === null ? "–" : whole(row.records)),
          el("td", { class: "n" }, short(Number(row.loss ?? NaN))), el("td", { class: "n" }, short(Number(row.loss_min ?? NaN))),
          el("td", { class: row.errors ? "n bad" : "n" }, row.errors === null ? "–" : row.errors),
          ...settings.map((name) => el("td", {}, row.config[name] ?? "–")));
      });
      body.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, el("td", {}), head)), el("tbody", {}, lines)));
      if (found.length > 500) body.append(el("p", { class: "hint" }, `and ${whole(found.length - 500)} more; search for them`));
    }
    function note(key) {
      const text = notes()[key] || "";
      const box = el("input", { class: "note", value: text, placeholder: "note", "aria-label": `note on ${key}`, on: { change: () => {
        const kept = notes();
        if (box.value) kept[key] = box.value; else delete kept[key];
        localStorage.setItem(NOTES, JSON.stringify(kept));
      } } });
      return box;
    }
    async function load() {
      const found = (await (await get("api/runs")).json()).runs;
      if (!isHere()) return;
      rows = found;
      draw();
      document.body.dataset.ready = "runs";
    }
    await load();
    if (!isHere()) return;
    const timer = setInterval(() => { if (!document.hidden && !body.contains(document.activeElement)) load().catch(() => {}); }, 5000);
    leave = () => clearInterval(timer);
  }
  function theme() {
    return el("span", { class: "seg", role: "group", "aria-label": "theme" }, el("button", { type: "button", on: { click: () => {
      const root = document.documentElement, isDark = (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
      root.dataset.theme = isDark ? "light" : "dark";
    } } }, "dark"));
  }

  /* --- one run ---------------------------------------------------------------------------------------------------- */

  async function one(key, isHere) {
    const [folder, name] = [key.slice(0, key.indexOf("/")), key.slice(key.indexOf("/") + 1)];
    const at = `api/runs/${encodeURIComponent(folder)}/${encodeURIComponent(name)}`;
    const source = {
      prefix: `run=${encodeURIComponent(key)}`,
      isHere,
      async near(metrics, view) {
        const asked = new URLSearchParams({ from: view.low, to: view.high, ranks: view.ranks, width: view.ranks === "each" ? 300 : 750 });
        const found = { charts: [], bytes: null };
        try {
          /* As many as the server takes; the page asks for the others then. */
          for (const metric of metrics.slice(0, view.ranks === "each" ? 16 : 64)) asked.append("metric", metric);
          const [told, bytes] = await getPacked(`${at}/pictures?${asked}`);
          return { charts: told.charts, bytes };
        } catch (error) {
          return error instanceof Refused ? refused() : found;
        }
      },
      controls: () => [el("button", { type: "button", class: "plain", on: { click: () => save(`${at}/report`, `${name}.html`) } }, "report")],
      cards: () => [logs(at)],
    };
    const [facts, bytes] = await getPacked(`${at}/page`);
    if (!isHere()) return;
    listen();
    show(facts, bytes, source);
    const stop = live(at, async () => {
      const [newer, numbers] = await getPacked(`${at}/page`);
      if (isHere()) refresh(newer, numbers);
    });
    leave = stop;
  }

  /* A line comes whenever the run's files have changed. A page that nobody sees lets its stream go. */
  function live(at, changed) {
    let ending = null, last = null, isOver = false;
    async function listenTo() {
      if (isOver || document.hidden || ending) return;
      ending = new AbortController();
      try {
        const reader = (await get(`${at}/live`, ending.signal)).body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          const lines = (rest + value).split("\n");
          rest = lines.pop();
          const told = lines.filter(Boolean).map((line) => JSON.parse(line).version);
          if (!told.length) continue;
          const isNew = last !== null && told[told.length - 1] !== last;
          last = told[told.length - 1];
          if (isNew) await changed().catch(() => {});
        }
      } catch { /* the server has ended, or the page was hidden */ }
      ending = null;
      if (!isOver && !document.hidden) setTimeout(listenTo, 2000);
    }
    const seen = () => {
      if (document.hidden && ending) ending.abort();
      else listenTo();
    };
    document.addEventListener("visibilitychange", seen);
    listenTo();
    return () => {
      isOver = true;
      document.removeEventListener("visibilitychange", seen);
      if (ending) ending.abort();
    };
  }

  function logs(at) {
    const file = el("select", { "aria-label": "log file" }, ["errors", "main", "training"].map((name) => el("option", { value: name }, `${name} log`)));
    const box = el("input", { type: "search", placeholder: "search", "aria-label": "search the log" });
    const out = el("pre", { tabindex: "0", "aria-label": "lines of the log, the last first" }), hint = el("p", { class: "hint" });
    let asked = 0;
    async function load() {
      const mine = ++asked, found = await (await get(`${at}/log?${new URLSearchParams({ file: file.value, q: box.value })}`)).json();
      if (mine !== asked) return;
      out.textContent = found.lines.join("\n") || "no line";
      hint.textContent = found.more ? "and more, not shown" : "";
    }
    file.addEventListener("change", load);
    box.addEventListener("input", () => setTimeout(load, 150));
    const card = el("details", { class: "card c12", on: { toggle: () => { if (card.open && !out.textContent) load(); } } }, el("summary", {}, "Logs"), el("div", { class: "tools" }, file, box), out, hint);
    return card;
  }

  /* --- runs over each other --------------------------------------------------------------------------------------- */

  async function together(keys, asked, isHere) {
    const query = new URLSearchParams();
    for (const key of keys) query.append("run", key);
    if (asked.get("metric")) query.set("metric", asked.get("metric"));
    const [low, high] = (asked.get("x") || "").split("..").map(Number);
    if (Number.isFinite(low) && Number.isFinite(high)) {
      query.set("from", low);
      query.set("to", high);
    }
    const [[facts, bytes], listed] = await Promise.all([getPacked(`api/compare?${query}`), get("api/runs").then((answer) => answer.json())]);
    if (!isHere()) return;
    const rows = keys.map((key) => listed.runs.find((row) => keyOf(row) === key)).filter(Boolean);
    const go = (change) => {
      const next = new URLSearchParams(location.hash.slice(1));
      for (const [name, value] of Object.entries(change)) if (value === null) next.delete(name); else next.set(name, value);
      location.hash = next.toString();
    };
    byId("head").replaceChildren(el("a", { class: "logo", href: "#" }, "advlog"), el("h1", {}, plural(keys.length, "run")), el("span", { class: "gap" }), theme());
    const metric = el("select", { "aria-label": "metric", on: { change: () => go({ metric: metric.value, x: null }) } }, facts.metrics.map((name) => el("option", { value: name, selected: name === facts.metric }, name)));
    const draw = el("div", { class: "draw" }), legend = el("div", { class: "legend" });
    const card = el("figure", { class: "card c12 chart", role: "group", "aria-label": facts.metric ? `${facts.metric} of ${facts.charts.map((each) => each.name).join(", ")}` : "no metric in common" },
      el("h2", {}, "Overlay", el("small", {}, "the mean of each run over its ranks, with the band of all values")), el("div", { class: "tools" }, el("label", {}, "metric ", metric), el("button", { type: "button", class: "plain", on: { click: () => go({ x: null }) } }, "whole")), draw, legend);
    const settings = [...new Set(rows.flatMap((row) => Object.keys(row.config)))].filter((name) => new Set(rows.map((row) => row.config[name])).size > 1);
    const first = facts.first ? `${facts.metric} differs first at step ${whole(facts.first.step)} of rank ${facts.first.rank}: ${facts.first.values.map((value) => short(Number(value ?? NaN))).join(" and ")}` : facts.why || (keys.length === 2 && facts.metric ? `${facts.metric} is the same at every step that both have` : null);
    byId("main").replaceChildren(...[card,
      first ? el("section", { class: "card c12" }, el("h2", {}, "First difference"), el("p", {}, first)) : null,
      el("section", { class: "card c12" }, el("h2", {}, "Runs"), el("div", { class: "scroll" }, table(["run", "status", "loss, last", "lowest", "records", "errors"], rows.map((row) => [el("a", { href: `#run=${encodeURIComponent(keyOf(row))}` }, row.name), row.status, short(Number(row.loss ?? NaN)), short(Number(row.loss_min ?? NaN)), row.records === null ? null : whole(row.records), row.errors]), [2, 3, 4, 5]))),
      el("section", { class: "card c12" }, el("h2", {}, "What differs"), settings.length ? el("div", { class: "scroll" }, table(["setting", ...rows.map((row) => row.name)], settings.map((name) => [name, ...rows.map((row) => row.config[name] ?? null)]))) : el("p", {}, "Their settings are the same.")),
      groups(rows)].filter(Boolean));
    const drawAll = () => overlay(draw, legend, facts, bytes, (from, to) => go({ x: `${from}..${to}` }));
    drawAll();
    const dark = matchMedia("(prefers-color-scheme: dark)"), observer = new MutationObserver(drawAll);
    observer.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    dark.addEventListener("change", drawAll);
    addEventListener("resize", drawAll);
    leave = () => {
      observer.disconnect();
      dark.removeEventListener("change", drawAll);
      removeEventListener("resize", drawAll);
    };
    document.body.dataset.ready = "together";
  }

  function overlay(into, legend, facts, bytes, zoom) {
    into.replaceChildren();
    if (!facts.metric || !into.clientWidth) return;
    const all = facts.charts.map((each) => ({ ...seriesOf(each.series, each.shift, bytes), run: each.name }));
    const steps = [...new Set(all.flatMap((each) => [...each.middle]))].sort((a, b) => a - b), at = new Map(steps.map((step, i) => [step, i]));
    const data = [steps], drawn = [{}], bands = [], axis = { stroke: css("--ink3"), grid: { stroke: css("--grid"), width: 1 }, ticks: { show: false }, font: "11.5px system-ui, sans-serif" };
    all.forEach((each, number) => {
      const color = css(HUES[number % HUES.length]);
      for (const [name, style] of [["min", { stroke: "transparent" }], ["max", { stroke: "transparent" }], ["mean", { stroke: color, width: 1.5 }]]) {
        const values = new Array(steps.length).fill(null);
        each.middle.forEach((step, i) => { if (Number.isFinite(each[name][i])) values[at.get(step)] = each[name][i]; });
        data.push(values);
        drawn.push({ ...style, spanGaps: true, points: { show: false } });
      }
      if (all.length <= 4) bands.push({ series: [3 * number + 2, 3 * number + 1], fill: color + "22" });
    });
    const means = all.flatMap((each) => [...each.mean]).filter(Number.isFinite).sort((a, b) => a - b), cut = Math.floor(means.length * 0.002);
    const low = means[cut] ?? 0, high = means[means.length - 1 - cut] ?? 1, isLog = low > 0 && high / 30 > low, room = (high - low) * 0.1 || Math.abs(high) * 0.1 || 1;
    const plot = new uPlot({
      width: into.clientWidth, height: 360, pxAlign: 0, padding: [14, 20, 0, 0], legend: { show: false },
      cursor: { drag: { x: true, y: false, setScale: false } },
      scales: { x: { time: false }, y: { distr: isLog ? 3 : 1, range: () => (isLog ? [low / 1.3, high * 1.5] : [low - room, high + room]) } },
      axes: [{ ...axis, size: 26, values: (_, ticks) => ticks.map(short) }, { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick))) }],
      series: drawn, bands,
      hooks: {
        setSelect: [(self) => { if (self.select.width > 3) zoom(Math.floor(self.posToVal(self.select.left, "x")), Math.ceil(self.posToVal(self.select.left + self.select.width, "x"))); }],
        setCursor: [(self) => {
          const i = self.cursor.idx, tip = byId("tip");
          if (i === null || i === undefined || self.cursor.left < 0 || !self.over.matches(":hover")) return;
          tip.replaceChildren(el("div", {}, el("b", {}, `step ${whole(steps[i])}`)), ...all.slice(0, 12).map((each, number) => el("div", {}, `${each.run}: ${short(data[3 * number + 3][i] ?? NaN)}`)));
          const box = self.over.getBoundingClientRect();
          tip.style.display = "block";
          tip.style.left = `${Math.max(8, Math.min(box.left + self.cursor.left + 14 + scrollX, scrollX + innerWidth - tip.offsetWidth - 12))}px`;
          tip.style.top = `${box.top + self.cursor.top + 14 + scrollY}px`;
        }],
      },
    }, data, into);
    plot.root.setAttribute("aria-hidden", "true");
    plot.over.addEventListener("mouseleave", () => { byId("tip").style.display = "none"; });
    legend.replaceChildren(...all.map((each, number) => el("span", {}, el("i", { style: { background: `var(${HUES[number % HUES.length]})` } }), each.run)));
  }

  /* Groups of runs, such as seeds: is their difference larger than their noise? */
  function groups(rows) {
    const of = new Map();
    for (const row of rows) if (row.group && Number.isFinite(Number(row.loss ?? NaN))) of.set(row.group, [...(of.get(row.group) || []), Number(row.loss)]);
    if (of.size < 2 || ![...of.values()].some((values) => values.length > 1)) return null;
    const told = [...of].map(([group, values]) => {
      const mean = values.reduce((a, b) => a + b, 0) / values.length;
      const deviation = values.length > 1 ? Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1)) : NaN;
      return [group, values.length, short(mean), short(deviation)];
    });
    return el("section", { class: "card c12" }, el("h2", {}, "Groups", el("small", {}, "the last loss: mean and deviation over their runs")), table(["group", "runs", "mean", "deviation"], told, [1, 2, 3]));
  }

  addEventListener("hashchange", arrive);
  addEventListener("popstate", arrive);
  arrive();
})();
