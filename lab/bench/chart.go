// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// chart is lines over sizes, each ten times or more the one before: x is drawn by its
// logarithm, or by its place where the sizes have names.
type chart struct {
	title, x, y string
	names       []string // of x = 0, 1, …; nil: x is a size
	lines       []line
}

type line struct {
	name   string
	points []xy
	dashed bool
}

type xy struct{ x, y float64 }

// Sizes of a chart, in pixels.
const (
	chartWidth, chartHeight = 640, 340
	left, right             = 62, 150
	top, bottom             = 40, 52
)

// colours are told apart by people who see few of them too.
var colours = []string{"#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44", "#66ccee", "#777777"}

// svg draws the chart.
func (c *chart) svg() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12" role="img">`+"\n",
		chartWidth, chartHeight, chartWidth, chartHeight)
	fmt.Fprintf(&b, `<title>%s</title><rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n", html.EscapeString(c.title))
	text(&b, left, 22, "start", "font-weight=\"bold\" font-size=\"14\"", c.title)
	text(&b, left+c.plotWidth()/2, chartHeight-12, "middle", "", c.x)
	fmt.Fprintf(&b, `<text transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", top+c.plotHeight()/2, html.EscapeString(c.y))
	c.grid(&b)
	for i := range c.lines {
		c.draw(&b, i)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (c *chart) plotWidth() int  { return chartWidth - left - right }
func (c *chart) plotHeight() int { return chartHeight - top - bottom }

func text(b *strings.Builder, x, y int, anchor, more, what string) {
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="%s" %s>%s</text>`+"\n", x, y, anchor, more, html.EscapeString(what))
}

// most is the top of the y axis, and step what its marks are apart.
func (c *chart) most() (most, step float64) {
	for _, l := range c.lines {
		for _, p := range l.points {
			most = max(most, p.y)
		}
	}
	step = math.Pow(10, math.Floor(math.Log10(max(most, 0.01))))
	for _, part := range []float64{0.1, 0.2, 0.5} {
		if most/(step*part) <= 7 {
			step *= part
			break
		}
	}
	return math.Ceil(most/step) * step, step
}

// xs are the sizes that any line has, in their order.
func (c *chart) xs() []float64 {
	var all []float64
	for _, l := range c.lines {
		for _, p := range l.points {
			all = append(all, p.x)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// at is where a point is, in pixels.
func (c *chart) at(p xy) (x, y float64) {
	xs := c.xs()
	place := func(v float64) float64 { return math.Log10(max(v, 1)) }
	if c.names != nil {
		place = func(v float64) float64 { return v }
	}
	from, to := place(xs[0]), place(xs[len(xs)-1])
	share := 0.5
	if to > from {
		share = (place(p.x) - from) / (to - from)
	}
	most, _ := c.most()
	return left + share*float64(c.plotWidth()), top + (1-max(p.y, 0)/most)*float64(c.plotHeight())
}

// grid draws the axes and their marks.
func (c *chart) grid(b *strings.Builder) {
	most, step := c.most()
	for v := 0.0; v <= most+step/2; v += step {
		_, y := c.at(xy{c.xs()[0], v})
		fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#dddddd"/>`+"\n", left, left+c.plotWidth(), y, y)
		text(b, left-8, int(y)+4, "end", "", fmt.Sprintf("%g", math.Round(v*100)/100))
	}
	for _, v := range c.xs() {
		x, _ := c.at(xy{v, 0})
		name := short(v)
		if c.names != nil {
			name = c.names[int(v)]
		}
		text(b, int(x), top+c.plotHeight()+18, "middle", "", name)
	}
}

// short writes a size as people read it.
func short(v float64) string {
	n := int(v)
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dM", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dk", n>>10)
	}
	return fmt.Sprint(n)
}

// draw draws a line, its points, and its name at the end of it.
func (c *chart) draw(b *strings.Builder, i int) {
	l := &c.lines[i]
	colour, dash := colours[i%len(colours)], ""
	if l.dashed {
		dash = ` stroke-dasharray="5 4"`
	}
	var path []string
	for _, p := range l.points {
		x, y := c.at(p)
		path = append(path, fmt.Sprintf("%.1f,%.1f", x, y))
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s: %.2f</title></circle>`+"\n", x, y, colour, html.EscapeString(l.name), p.y)
	}
	fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", strings.Join(path, " "), colour, dash)
	at := top + 8 + 20*i
	fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%d" y2="%d" stroke="%s" stroke-width="2"%s/>`+"\n", chartWidth-right+12, chartWidth-right+34, at, at, colour, dash)
	text(b, chartWidth-right+40, at+4, "start", "", l.name)
}
