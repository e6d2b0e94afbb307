// Package plot draws bars and lines as SVG that stands on a light and on a dark page.
package plot

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bars are groups of bars from zero, one below the other, each with its value beside it.
type Bars struct {
	Title, Unit string
	Groups      []Group
}

// Group is bars that are compared.
type Group struct {
	Name string
	Bars []Bar
}

// Bar is one; those of the same color are of the same thing.
type Bar struct {
	Name  string
	Color int
	Value float64
}

// Lines are one thing over another.
type Lines struct {
	Title  string
	X, Y   Axis
	Series []Series
}

// Axis is one of two.
type Axis struct {
	Label string
	// Log has equal steps for equal ratios; what is not above zero cannot be drawn.
	Log bool
	// Ticks, if any, are all that the axis has; the range of the series is that of them.
	Ticks []Tick
}

// Tick is a place on an axis that has a name.
type Tick struct {
	At    float64
	Label string
}

// Series is one line.
type Series struct {
	Name   string
	Color  int
	Points []Point
}

// Point is x and y.
type Point [2]float64

const (
	width      = 760
	lineHeight = 18
	colors     = 8
	// style has colours apart enough for eyes that see red as green.
	style = `text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-weight:600;font-size:14px}.m{fill:#59636e}.e{text-anchor:end}.c{text-anchor:middle}
.g{stroke:#8c959f55;stroke-width:1}.l{fill:none;stroke-width:2;stroke-linejoin:round}
.k0{--k:#0072b2}.k1{--k:#d55e00}.k2{--k:#009e73}.k3{--k:#b0559a}.k4{--k:#b8860b}.k5{--k:#3a9bd9}.k6{--k:#6e7781}.k7{--k:#8250df}
.f{fill:var(--k)}.s{stroke:var(--k)}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.m{fill:#9198a1}.k0{--k:#58a6ff}.k1{--k:#ff8c42}.k2{--k:#2fbf8f}.k3{--k:#e08cc8}.k4{--k:#e3b341}.k7{--k:#bc8cff}}`
)

// canvas is an SVG that grows.
type canvas struct{ bytes.Buffer }

func (c *canvas) text(x, y float64, class, s string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" class="%s">`, x, y, class)
	_ = xml.EscapeText(c, []byte(s)) // a buffer takes everything
	c.WriteString("</text>\n")
}

func (c *canvas) line(x1, y1, x2, y2 float64) {
	fmt.Fprintf(c, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="g"/>`+"\n", x1, y1, x2, y2)
}

// svg closes what was drawn.
func (c *canvas) svg(title string, height float64) []byte {
	var whole canvas
	fmt.Fprintf(&whole, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" width="%d" height="%.0f" role="img"><style>%s</style>`+"\n",
		width, height, width, height, style)
	whole.text(8, 20, "t", title)
	whole.Write(c.Bytes())
	whole.WriteString("</svg>\n")
	return whole.Bytes()
}

// SVG draws them.
func (b Bars) SVG() []byte {
	const left, right = 150.0, width - 70.0
	var c canvas
	longest := 0.0
	for _, group := range b.Groups {
		for _, bar := range group.Bars {
			longest = max(longest, bar.Value)
		}
	}
	y := 46.0
	for _, group := range b.Groups {
		if len(b.Groups) > 1 {
			c.text(8, y, "m", group.Name)
			y += lineHeight
		}
		for _, bar := range group.Bars {
			length := (right - left) * bar.Value / max(longest, math.SmallestNonzeroFloat64)
			c.text(left-8, y, "e", bar.Name)
			fmt.Fprintf(&c, `<rect x="%.1f" y="%.1f" width="%.1f" height="12" rx="2" class="f k%d"/>`+"\n", left, y-10, max(length, 1), bar.Color%colors)
			c.text(left+length+6, y, "", short(bar.Value))
			y += lineHeight
		}
		y += 8
	}
	c.text(left, y+2, "m", b.Unit)
	return c.svg(b.Title, y+14)
}

// short writes three digits that count.
func short(v float64) string {
	if v >= 1000 {
		text := strconv.FormatFloat(v, 'f', 0, 64)
		for at := len(text) - 3; at > 0; at -= 3 {
			text = text[:at] + "," + text[at:]
		}
		return text
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// SVG draws them.
func (l Lines) SVG() []byte {
	const left, right, top, bottom = 70.0, width - 36.0, 40.0, 300.0
	var c canvas
	x, y := l.scale(0, left, right), l.scale(1, bottom, top)
	for _, tick := range x.ticks {
		at := x.at(tick.At)
		c.line(at, top, at, bottom)
		c.text(at, bottom+18, "c m", tick.Label)
	}
	for _, tick := range y.ticks {
		at := y.at(tick.At)
		c.line(left, at, right, at)
		c.text(left-8, at+4, "e m", tick.Label)
	}
	c.text((left+right)/2, bottom+38, "c", l.X.Label)
	fmt.Fprintf(&c, `<g transform="translate(16 %.0f) rotate(-90)">`, (top+bottom)/2)
	c.text(0, 0, "c", l.Y.Label)
	c.WriteString("</g>\n")
	legend := left
	for _, series := range l.Series {
		l.draw(&c, series, x, y)
		fmt.Fprintf(&c, `<rect x="%.1f" y="%.1f" width="10" height="10" rx="2" class="f k%d"/>`, legend, bottom+52, series.Color%colors)
		c.text(legend+15, bottom+61, "", series.Name)
		legend += 35 + 7*float64(len(series.Name))
	}
	return c.svg(l.Title, bottom+74)
}

// maxDots is how many points of a line are marked.
const maxDots = 20

func (l Lines) draw(c *canvas, series Series, x, y scale) {
	var path strings.Builder
	dots := canvas{}
	for _, p := range series.Points {
		if (l.X.Log && p[0] <= 0) || (l.Y.Log && p[1] <= 0) {
			continue
		}
		fmt.Fprintf(&path, "%.1f,%.1f ", x.at(p[0]), y.at(p[1]))
		fmt.Fprintf(&dots, `<circle cx="%.1f" cy="%.1f" r="3" class="f k%d"/>`, x.at(p[0]), y.at(p[1]), series.Color%colors)
	}
	fmt.Fprintf(c, `<polyline points="%s" class="l s k%d"/>`+"\n", strings.TrimSpace(path.String()), series.Color%colors)
	if len(series.Points) <= maxDots {
		c.Write(dots.Bytes())
		c.WriteByte('\n')
	}
}

// scale maps a range of values to a range of the picture.
type scale struct {
	log      bool
	low      float64
	high     float64
	from, to float64
	ticks    []Tick
}

func (s scale) at(v float64) float64 {
	low, high := s.low, s.high
	if s.log {
		v, low, high = math.Log(v), math.Log(low), math.Log(high)
	}
	return s.from + (s.to-s.from)*(v-low)/(high-low)
}

// scale makes the one of x (0) or y (1): as wide as the series, and y from zero unless
// it is logarithmic.
func (l Lines) scale(which int, from, to float64) scale {
	axis := [2]Axis{l.X, l.Y}[which]
	s := scale{log: axis.Log, from: from, to: to, low: math.Inf(1), high: math.Inf(-1), ticks: axis.Ticks}
	see := func(v float64) {
		if !axis.Log || v > 0 {
			s.low, s.high = min(s.low, v), max(s.high, v)
		}
	}
	for _, series := range l.Series {
		for _, p := range series.Points {
			see(p[which])
		}
	}
	for _, tick := range axis.Ticks {
		see(tick.At)
	}
	switch {
	case s.low > s.high: // nothing can be drawn
		s.low, s.high = 1, 10
	case axis.Log && which == 1:
		s.low, s.high = math.Pow(10, math.Floor(math.Log10(s.low))), math.Pow(10, math.Ceil(math.Log10(s.high)))
	case which == 1:
		s.low, s.high = min(s.low, 0), s.high*1.05
	}
	if s.low == s.high {
		s.low, s.high = s.low/2, s.high*2+1
	}
	if len(s.ticks) == 0 {
		s.ticks = s.round()
	}
	return s
}

// round are ticks at round numbers.
func (s scale) round() []Tick {
	var ticks []Tick
	if s.log {
		few := s.high/s.low < 100
		for decade := math.Pow(10, math.Floor(math.Log10(s.low))); decade <= s.high*1.001; decade *= 10 {
			for _, step := range []float64{1, 2, 5} {
				if v := decade * step; v >= s.low*0.999 && v <= s.high*1.001 && (step == 1 || few) {
					ticks = append(ticks, Tick{v, short(v)})
				}
			}
		}
		return ticks
	}
	step := math.Pow(10, math.Floor(math.Log10((s.high-s.low)/4)))
	for _, times := range []float64{1, 2, 5, 10} {
		if (s.high-s.low)/(step*times) <= 6 {
			step *= times
			break
		}
	}
	for v := math.Ceil(s.low/step) * step; v <= s.high*1.0001; v += step {
		ticks = append(ticks, Tick{v, short(math.Round(v/step) * step)})
	}
	return ticks
}
