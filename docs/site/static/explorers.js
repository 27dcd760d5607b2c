"use strict";

/* Figures of notebooks, and explorers whose views were computed when the site was built. */
(() => {
  const here = document.currentScript.src;
  const loading = {};
  const arrived = {};
  const every = [];

  const load = (path) =>
    (loading[path] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      Object.assign(script, { src: new URL(path, here), onload: resolve, onerror: reject });
      document.head.append(script);
    }));

  globalThis.explorerArrived = (name, packed) => {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    arrived[name] = new Response(stream).json();
  };

  const ink = () => getComputedStyle(document.body).color;

  function dressed(layout) {
    for (const note of layout.annotations ?? []) note.font = { ...note.font, color: ink() };
    const font = { ...layout.font, color: ink(), size: Math.max(layout.font?.size ?? 12, 12) };
    return { ...layout, autosize: true, width: undefined, font };
  }

  const config = { displaylogo: false, displayModeBar: false };

  // a sidebar that slides in or out resizes figures without a resize of the window
  const fitted = new ResizeObserver((entries) => {
    for (const { target } of entries) if (target.clientWidth) Plotly.Plots.resize(target);
  });

  async function drawPlot(plot) {
    const script = plot.querySelector("script");
    const figure = JSON.parse(script.textContent);
    script.remove();
    await load("plotly.min.js");
    const draw = () => Plotly.react(plot, figure.data, dressed(figure.layout), config);
    every.push(draw);
    await draw();
    fitted.observe(plot);
    plot.classList.add("drawn");
  }

  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  class Explorer {
    constructor(place, table) {
      this.place = place;
      this.name = place.dataset.explorer;
      this.table = table;
      this.at = [...table.start];
      this.figure = structuredClone(table.figure);
      this.controls = table.axes.map((axis, index) => this.control(axis, index));
      this.plot = make("div", { className: "picture" });
      this.plot.style.height = `${table.figure.layout.height}px`;
      this.note = make("p", { className: "note" });
      this.note.setAttribute("role", "status");
      this.link = make("a", { textContent: "Link to this setting" });
      const controls = make("div", { className: "controls" }, ...this.controls.map((one) => one.row));
      place.replaceChildren(controls, this.plot, this.note, make("p", {}, this.link));
      this.take(place.dataset.start, false);
      this.take(location.hash.slice(1));
      every.push(() => this.draw());
    }

    control(axis, index) {
      const id = `${this.name}-${axis.name}-${every.length}`;
      const row = make("div", { className: "control" });
      row.append(make("label", { htmlFor: id, textContent: axis.label }));
      if (axis.kind === "menu") {
        const options = axis.stops.map((stop) => make("option", { textContent: stop }));
        const menu = make("select", { id }, ...options);
        menu.addEventListener("change", () => this.choose(index, menu.selectedIndex));
        row.append(menu);
        return { row, show: (stop) => (menu.selectedIndex = stop) };
      }
      const slider = make("input", { id, type: "range", min: 0, max: axis.stops.length - 1 });
      const said = make("output", { htmlFor: id });
      const show = (stop) => {
        slider.value = stop;
        slider.setAttribute("aria-valuetext", axis.stops[stop]);
        said.textContent = axis.stops[stop];
      };
      slider.addEventListener("input", () => {
        this.pause?.();
        this.choose(index, Number(slider.value));
      });
      row.append(slider, said);
      if (axis.kind === "film") row.append(this.player(index));
      return { row, show };
    }

    player(index) {
      const last = this.table.axes[index].stops.length - 1;
      const button = make("button", { type: "button", textContent: "Play" });
      let timer = 0;
      this.pause = () => {
        clearInterval(timer);
        timer = 0;
        button.textContent = "Play";
        this.note?.setAttribute("aria-live", "polite");
      };
      button.addEventListener("click", () => {
        if (timer) return this.pause();
        if (this.at[index] === last) this.choose(index, 0);
        button.textContent = "Pause";
        this.note.setAttribute("aria-live", "off"); // else every frame is read aloud
        timer = setInterval(() => {
          this.choose(index, this.at[index] + 1);
          if (this.at[index] === last) this.pause();
        }, 150);
      });
      return button;
    }

    choose(index, stop) {
      this.at[index] = stop;
      const jumps = this.table.axes[index].jumps[stop] ?? {};
      this.table.axes.forEach((axis, other) => {
        if (axis.name in jumps) this.at[other] = jumps[axis.name];
      });
      this.changed();
    }

    changed() {
      const state = new URLSearchParams({ explorer: this.name });
      this.table.axes.forEach((axis, index) => state.set(axis.name, axis.stops[this.at[index]]));
      history.replaceState(null, "", `#${state}`);
      this.draw();
    }

    /* A link's setting: menus by their words, sliders by the stop nearest to the number. */
    take(hash, addressed = true) {
      const state = new URLSearchParams(hash);
      if (addressed && state.get("explorer") !== this.name) return;
      this.pause?.();
      this.table.axes.forEach((axis, index) => {
        const said = state.get(axis.name);
        if (said === null) return;
        let stop = axis.stops.indexOf(said);
        if (stop < 0 && axis.kind !== "menu" && Number.isFinite(Number(said))) {
          const off = axis.stops.map((one) => Math.abs(Number(one) - Number(said)));
          stop = off.indexOf(Math.min(...off));
        }
        if (stop >= 0) this.at[index] = stop;
      });
    }

    draw() {
      const { axes, views } = this.table;
      const view = axes.reduce((sum, axis, index) => sum * axis.stops.length + this.at[index], 0);
      this.controls.forEach((control, index) => control.show(this.at[index]));
      for (const { path, pool, at, base } of views) {
        let value = pool[at ? at[view] : 0];
        if (base) value = base.map((one) => value[0] + value[1] * one);
        const inner = ["", ...path].slice(1);
        const last = inner.pop();
        let parent = last === "note" ? this : this.figure;
        for (const key of inner) parent = parent[key] ??= {};
        if (last === "note") this.note.innerHTML = value;
        else parent[last] = value;
      }
      const state = new URLSearchParams({ explorer: this.name });
      axes.forEach((axis, index) => state.set(axis.name, axis.stops[this.at[index]]));
      this.link.href = `#${state}`;
      const data = this.figure.data.map((trace) => ({ ...trace }));
      return Plotly.react(this.plot, data, dressed(this.figure.layout), config);
    }

    clicked(point) {
      const names = this.table.clicks[point.data.name] ?? [];
      names.forEach((name, which) => {
        const index = this.table.axes.findIndex((axis) => axis.name === name);
        const to = which ? point.y : point.x;
        const off = this.table.axes[index].stops.map((one) => Math.abs(Number(one) - to));
        this.at[index] = off.indexOf(Math.min(...off));
      });
      if (names.length) this.changed();
    }
  }

  async function openExplorer(place) {
    const name = place.dataset.explorer;
    await Promise.all([load("plotly.min.js"), load(`explorers/${name}.js`)]);
    const explorer = new Explorer(place, await arrived[name]);
    await explorer.draw();
    fitted.observe(explorer.plot);
    explorer.plot.on("plotly_click", ({ points }) => explorer.clicked(points[0]));
    addEventListener("hashchange", () => {
      explorer.take(location.hash.slice(1));
      explorer.draw();
      if (new URLSearchParams(location.hash.slice(1)).get("explorer") === name) {
        place.scrollIntoView({ block: "nearest" });
      }
    });
    place.classList.add("drawn");
  }

  document.addEventListener("DOMContentLoaded", () => {
    const failed = (place) => (error) => {
      place.prepend(`This figure could not be shown: ${error.message ?? "a file is missing"}`);
    };
    const watcher = new IntersectionObserver(
      (entries) => {
        for (const { isIntersecting, target } of entries) {
          if (!isIntersecting) continue;
          watcher.unobserve(target);
          const open = target.dataset.explorer ? openExplorer : drawPlot;
          open(target).catch(failed(target));
        }
      },
      { rootMargin: "600px" },
    );
    for (const place of document.querySelectorAll(".explorer, .plot")) watcher.observe(place);
    const redraw = () => every.forEach((draw) => draw());
    new MutationObserver(redraw).observe(document.documentElement, {
      attributeFilter: ["data-theme"],
    });
  });
})();
