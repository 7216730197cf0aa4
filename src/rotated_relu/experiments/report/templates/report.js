"use strict";
(() => {
  const specifications = JSON.parse(document.getElementById("specifications").textContent);
  const style = () => getComputedStyle(document.documentElement);

  // Put the values of the page's colour variables, for light or dark, into a specification.
  const painted = (value, css) => {
    if (typeof value === "string") return value.startsWith("var(") ? css.getPropertyValue(value.slice(4, -1)).trim() : value;
    if (Array.isArray(value)) return value.map((entry) => painted(entry, css));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, painted(entry, css)]));
    return value;
  };

  const axisDefaults = {
    gridcolor: "var(--rule)", linecolor: "var(--faint)", tickcolor: "var(--faint)", ticks: "outside", ticklen: 4,
    tickfont: { size: 11.5 }, exponentformat: "SI", automargin: true,
  };
  const withDefaults = (layout, narrow) => {
    const result = {
      autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: narrow ? false : "zoom",
      font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif", size: 12.5, color: "var(--ink-soft)" },
      margin: { l: 52, r: 12, t: 28, b: 40 },
      legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      hoverlabel: { bgcolor: "var(--paper)", bordercolor: "var(--faint)", font: { color: "var(--ink)", size: 12.5 } },
      hovermode: "closest",
      ...layout,
    };
    for (const key of Object.keys(result))
      if (/^[xy]axis\d*$/.test(key)) {
        const title = { standoff: 8, font: { size: 12 }, ...result[key].title };
        result[key] = { ...axisDefaults, ...result[key], title };
      }
    return result;
  };

  const draw = () => {
    const css = style();
    const narrow = window.matchMedia("(pointer: coarse), (max-width: 34rem)").matches;
    for (const [key, { data, layout }] of Object.entries(specifications))
      Plotly.react(`plot-${key}`, painted(data, css), painted(withDefaults(layout, narrow), css), {
        responsive: true, displayModeBar: false,
      });
  };
  draw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
