// Draws every chart, one after another, into its place; the radio buttons set what the first one shows.
(async () => {
  const views = new Map();
  for (const place of document.querySelectorAll(".chart")) {
    const spec = JSON.parse(place.querySelector("script").textContent);
    const drawn = document.createElement("div");
    drawn.style.width = "100%";
    place.append(drawn);
    const { view } = await vegaEmbed(drawn, spec, { mode: "vega-lite", renderer: "svg", actions: false });
    place.querySelectorAll("svg, svg *").forEach((node) => {
      for (const name of ["role", "aria-roledescription", "aria-label"]) node.removeAttribute(name);
    });
    views.set(place, view);
  }
  for (const radio of document.querySelectorAll("input[name=measure]")) {
    radio.addEventListener("change", () => {
      const view = views.get(document.querySelector("#figure-comparison .chart"));
      view.signal("measure", radio.value).run();
    });
  }
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });
  document.documentElement.dataset.drawn = views.size;
})();
