/**
 * The style sheet of the page.
 */
export const style = `
:root {
  color-scheme: light dark;
  --ground: #f4f5f6;
  --panel: #ffffff;
  --line: #d7dbdf;
  --grid: #e6e9ec;
  --control: #838b94;
  --text: #16191d;
  --quiet: #545c66;
  --first: #1a5fb4;
  --second: #9a4a00;
  --third: #7a1fa2;
  --good: #176b3a;
  --bad: #b3201b;
  --focus: #1a5fb4;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
  background: var(--ground);
  color: var(--text);
  -webkit-text-size-adjust: 100%;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #101316;
    --panel: #181c20;
    --line: #30363d;
    --grid: #272c32;
    --control: #7d8791;
    --text: #e4e7ea;
    --quiet: #a2abb4;
    --first: #78b0f5;
    --second: #f0a35a;
    --third: #d39af0;
    --good: #6fcf97;
    --bad: #ff8f88;
    --focus: #9cc7ff;
  }
}
*, *::before, *::after { box-sizing: border-box; }
body { margin: 0; }
h1, h2, h3, p, dl, dd, ul, figure { margin: 0; padding: 0; }
h1 { font-size: 1.2rem; font-weight: 650; letter-spacing: -0.01em; }
h2 { font-size: 1rem; font-weight: 650; }
h3 { font-size: 0.95rem; font-weight: 600; }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; border-radius: 2px; }
main:focus { outline: none; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.skip { position: absolute; left: 12px; top: -60px; z-index: 2; padding: 8px 12px; background: var(--panel); color: var(--text); }
.skip:focus { top: 8px; }
header { position: sticky; top: 0; z-index: 1; background: var(--panel); border-bottom: 1px solid var(--line); }
.head, main, .notice { max-width: 1320px; margin: 0 auto; padding: 10px 16px; }
.head { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 16px; }
#about { color: var(--quiet); }
.health { display: flex; flex-wrap: wrap; align-items: center; gap: 0 6px; min-width: 0; overflow-wrap: anywhere; }
.health .mark { width: 0.7em; height: 0.7em; border: 2px solid var(--quiet); border-radius: 50%; }
.health[data-state="good"] .mark { border-color: var(--good); background: var(--good); }
.health[data-state="bad"] .mark { border-color: var(--bad); background: var(--bad); border-radius: 0; transform: rotate(45deg); }
.health[data-state="good"] #health-state { color: var(--good); font-weight: 600; }
.health[data-state="bad"] #health-state { color: var(--bad); font-weight: 600; }
#health-detail { color: var(--quiet); }
.control { display: flex; align-items: center; gap: 12px; margin-left: auto; }
#status { color: var(--quiet); }
#status[data-state="lost"] { color: var(--bad); font-weight: 600; }
button { font: inherit; color: inherit; background: none; border: 1px solid var(--control); border-radius: 4px; padding: 3px 10px; cursor: pointer; }
button:hover { background: var(--grid); }
button[aria-pressed="true"] { background: var(--text); color: var(--panel); border-color: var(--text); }
main { display: grid; grid-template-columns: minmax(0, 1fr); gap: 16px; padding-top: 16px; padding-bottom: 40px; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 12px 14px; min-width: 0; }
#past-title { margin: 4px 0 8px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 12px 20px; }
.figures dt { color: var(--quiet); font-size: 0.86rem; }
.figures dd { font-size: 1.35rem; font-weight: 550; line-height: 1.25; white-space: nowrap; }
.figures small { font-size: 0.86rem; font-weight: 400; color: var(--quiet); }
.figures [data-state="bad"] { color: var(--bad); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 16px; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 2px 16px; margin-bottom: 6px; }
.legend { display: flex; flex-wrap: wrap; gap: 0 14px; list-style: none; color: var(--quiet); font-size: 0.86rem; }
.legend li { display: flex; align-items: center; gap: 5px; }
.legend svg { width: 22px; height: 8px; flex: none; }
.legend b { color: var(--text); font-weight: 600; min-width: 2ch; }
.plot { height: 168px; touch-action: pan-y; cursor: crosshair; }
.plot svg { display: block; width: 100%; height: 100%; overflow: visible; }
.plot text { fill: var(--quiet); font-size: 11.5px; }
.plot .none { font-size: 13px; }
.grid { stroke: var(--grid); }
.axis { stroke: var(--control); }
.limit { stroke: var(--control); stroke-dasharray: 1 3; }
.reading { stroke: var(--text); }
.series { fill: none; stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; }
.first { stroke: var(--first); }
.second { stroke: var(--second); stroke-dasharray: 6 4; }
.third { stroke: var(--third); stroke-dasharray: 1.5 4; stroke-width: 2.25; }
.area { fill: var(--first); fill-opacity: 0.12; stroke: none; }
.summary { color: var(--quiet); font-size: 0.86rem; margin-top: 4px; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; margin-top: 6px; }
th, td { text-align: left; vertical-align: top; padding: 5px 12px 5px 0; border-top: 1px solid var(--grid); }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--quiet); font-weight: 500; font-size: 0.86rem; border-top: 0; white-space: nowrap; }
tbody th { font-weight: 500; overflow-wrap: anywhere; }
tbody th small { display: block; font-size: 0.8rem; font-weight: 400; color: var(--quiet); }
#sessions th small { font-family: var(--mono); }
.holders { display: block; font-size: 0.86rem; }
td { overflow-wrap: anywhere; }
pre { margin: 6px 0 0; padding: 8px; max-width: 100%; overflow-x: auto; font: 400 0.8rem/1.4 var(--mono); background: var(--ground); border: 1px solid var(--line); border-radius: 4px; }
.sections td { min-width: 8ch; }
.missing { color: var(--quiet); font-size: 0.86rem; margin-top: 6px; overflow-wrap: anywhere; }
.sections { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); gap: 16px; align-items: start; }
#sections-title { margin: 4px 0 8px; }
#settings td { white-space: normal; }
@media (min-width: 900px) {
  #settings thead { display: none; }
  #settings tbody { display: grid; grid-template-columns: 1fr 1fr; gap: 0 40px; }
  #settings tr { display: flex; justify-content: space-between; border-top: 1px solid var(--grid); }
  #settings :is(th, td) { border-top: 0; }
}
.number { text-align: right; white-space: nowrap; }
table[hidden], [hidden] { display: none; }
thead button { border: 0; padding: 0 2px; margin: 0 -2px; font-weight: 500; }
thead button::after { content: " ↕"; }
[aria-sort="descending"] button::after { content: " ↓"; }
[aria-sort="ascending"] button::after { content: " ↑"; }
[aria-sort="descending"] button, [aria-sort="ascending"] button { color: var(--text); font-weight: 650; }
#sessions th:first-child { width: 26%; min-width: 110px; }
#sessions .number { width: 76px; }
#statements .number, #own-statements .number { width: 84px; }
#statements th:first-child, #own-statements th:first-child { min-width: 170px; }
#recent-errors th:first-child { width: 30%; }
code { font-family: var(--mono); font-size: 0.86rem; font-weight: 400; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden; overflow-wrap: anywhere; }
code.open { display: block; white-space: pre-wrap; }
.more { font-size: 0.8rem; padding: 0 6px; margin-top: 3px; color: var(--quiet); }
.count { font-weight: 400; color: var(--quiet); }
.empty { color: var(--quiet); margin-top: 6px; }
.tallies { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 240px), 1fr)); gap: 16px; align-items: start; }
@media (max-width: 640px) {
  header { position: static; }
  .head, main { padding-left: 12px; padding-right: 12px; }
  .control { margin-left: 0; width: 100%; justify-content: space-between; }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .rows, .rows tbody, .rows tr { display: block; }
  .rows thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .sortable thead { position: static; display: block; width: auto; height: auto; clip-path: none; }
  .sortable thead tr { display: flex; flex-wrap: wrap; gap: 0 12px; }
  .sortable thead th { width: auto; padding: 4px 0; border-top: 0; }
  .sortable thead th:first-child { display: none; }
  .rows tbody tr { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 20px; border-top: 1px solid var(--grid); padding: 6px 0; }
  .rows tbody :is(th, td:not(.number)) { grid-column: 1 / -1; }
  .rows tbody :is(th, td) { display: block; width: auto; padding: 1px 0; border-top: 0; text-align: left; white-space: normal; }
  #sessions th:first-child, #sessions .number, #statements .number, #own-statements .number, #recent-errors th:first-child { width: auto; }
  .rows tbody td { display: grid; grid-template-columns: minmax(84px, 32%) minmax(0, 1fr); gap: 0 10px; }
  .rows tbody td.number { display: flex; flex-wrap: wrap; align-items: baseline; justify-content: space-between; }
  .rows tbody td::before { content: attr(data-label); color: var(--quiet); font-size: 0.86rem; }
}
@media (prefers-reduced-motion: no-preference) {
  button { transition: background-color 120ms; }
}
@media (forced-colors: active) {
  .health .mark { background: CanvasText; }
}
`
