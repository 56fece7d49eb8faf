"""The style sheet of a page, in light and dark mode."""

from __future__ import annotations

LIGHT = ("#2f6fb7", "#d06a1c", "#2f8f57", "#c23b4e", "#7d5bb5", "#8a6346", "#c45d9f", "#6b7280", "#8f8a17", "#1d94a6")
DARK = ("#6ea8ee", "#f0994f", "#62c48a", "#f0747f", "#b596ea", "#c79c7c", "#ee90cb", "#a5adba", "#c9c44e", "#4fcbdc")


def variables(colours: tuple[str, ...]) -> str:
    """Return the series colours as CSS custom properties."""
    return "".join(f"--c{i}:{colour};" for i, colour in enumerate(colours))


def series() -> str:
    """Return CSS classes for the line and the swatch of each series."""
    return "".join(f".s{i}{{stroke:var(--c{i})}}.b{i}{{background:var(--c{i})}}" for i in range(len(LIGHT)))


STYLE = (
    f":root{{color-scheme:light dark;--text:#1c2128;--soft:#57606a;--line:#d4d9df;--back:#fff;--panel:#f6f8fa;"
    f"--mark:#fff3c9;--good:#1a7f4b;--bad:#b3261e;--heat:47,111,183;{variables(LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{:root{{--text:#e6e9ee;--soft:#a4adb8;--line:#3a424d;--back:#14181d;"
    f"--panel:#1d232a;--mark:#4a3f14;--good:#62c48a;--bad:#f28b82;--heat:110,168,238;{variables(DARK)}}}}}"
    + series()
    + """
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem clamp(1rem,4vw,3rem) 4rem;max-width:84rem;background:var(--back);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.8rem;line-height:1.2;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:2.6rem 0 .8rem;padding-top:.8rem;border-top:1px solid var(--line)}
h3{font-size:1.05rem;margin:1.4rem 0 .4rem}
header p{margin:0;color:var(--soft);overflow-wrap:anywhere}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:1rem 0 0;padding:0;list-style:none}
a{color:var(--c0)}
p{max-width:46rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.8rem;margin:1.4rem 0 0;padding:0}
.tiles div{background:var(--panel);border:1px solid var(--line);border-radius:.5rem;padding:.7rem .9rem}
.tiles dt{color:var(--soft);font-size:.85rem}
.tiles dd{margin:0;font-size:1.35rem;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(26rem,100%),1fr));gap:1.4rem 2rem}
figure{margin:0 0 1rem;min-width:0}
figcaption{color:var(--soft);font-size:.88rem;max-width:46rem;margin-top:.35rem}
figure h3{margin:.2rem 0 .3rem}
svg{display:block;width:100%;height:auto;color:var(--soft)}
svg text{fill:currentColor;font-size:13px}
svg .grid{stroke:var(--line);stroke-width:1}
svg .series{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
svg .dots{fill:none;stroke-width:6;stroke-linecap:round;stroke-opacity:.8}
svg .others{stroke:var(--line)}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin:.3rem 0 0;padding:0;list-style:none;font-size:.88rem}
.legend li{overflow-wrap:anywhere}
.swatch{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
.scroll{overflow-x:auto;margin:.8rem 0 1.2rem}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);font-size:.88rem;padding-bottom:.4rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .9rem .3rem .4rem;border-bottom:1px solid var(--line)}
th{font-weight:600}
tbody th{font-weight:500}
.text td,.text th{overflow-wrap:break-word;max-width:32rem}
tr.marked{background:var(--mark)}
.counts td,.counts th{text-align:right;padding:.25rem .5rem;border:1px solid var(--line)}
.counts thead th{vertical-align:bottom}
.right{color:var(--good)}.wrong{color:var(--bad)}
.pictures td,.pictures th{text-align:center;font-weight:400;font-size:.82rem;padding:.4rem;max-width:8.5rem;
overflow-wrap:break-word}
.pictures img{display:block;margin:0 auto .2rem;width:72px;height:72px;object-fit:contain}
.pixels{image-rendering:pixelated}
img{max-width:100%}
.missing{color:var(--soft);background:var(--panel);border-left:4px solid var(--line);padding:.6rem .9rem}
.warning{border-left-color:var(--bad)}
details summary{cursor:pointer;color:var(--c0)}
@media (max-width:34rem){svg text{font-size:17px}}
@media print{nav{display:none}body{max-width:none}}
"""
)
