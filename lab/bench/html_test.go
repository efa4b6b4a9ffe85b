// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// several is a report of a path with one and with many flows, whose goal is missed.
func several() *Report {
	of := func(flows int, full, lookup float64) Result {
		return Result{Path: "pod-to-pod", Family: IPv4, Flows: flows, Base: []float64{50}, Full: []float64{full}, Lookup: []float64{lookup}}
	}
	return &Report{Version: version, Kernel: "6.1", Machine: "a <CPU>", Results: []Result{of(1, 150, 80), of(256, 160, 85), of(1<<16, 500, 300)}}
}

func TestAReportIsOnePage(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, several().WriteHTML(&out))
	page := out.String()
	require.Contains(t, page, "a &lt;CPU&gt;")
	require.Contains(t, page, `<td class="missed">2.00</td><td>1.20</td>`)
	require.Contains(t, page, "pod-to-pod: flows in random turn")
	require.Contains(t, page, "ipv4, bare lookup")
	require.Empty(t, regexp.MustCompile(`(src|href)=|url\(|@import`).FindAllString(page, -1), "it needs nothing else")
}

func TestChartsAreDrawnWithinTheirFrame(t *testing.T) {
	charts := several().charts()
	require.Len(t, charts, 1)
	charts = append(charts, chart{title: "one <point>", names: []string{"50"}, lines: []line{{name: "a&b", points: []xy{{0, 3}}}}})
	for i := range charts {
		c := &charts[i]
		drawn := c.svg()
		require.NoError(t, wellFormed(drawn), drawn)
		for _, l := range c.lines {
			for _, p := range l.points {
				x, y := c.at(p)
				require.True(t, x >= left && x <= chartWidth-right && y >= top && y <= chartHeight-bottom, "%v at %f, %f", p, x, y)
			}
		}
	}
	require.Equal(t, 3, strings.Count(charts[0].svg(), ">ipv4: "), "a point for each size")
}

func wellFormed(text string) error {
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// Each curve's world is made, and its paths are measured there, at its second size.
func TestEveryCurveIsDrawn(t *testing.T) {
	var out bytes.Buffer
	for _, c := range curves() {
		c.sizes = c.sizes[1:2]
		if c.names != nil {
			c.names = c.names[1:2]
		}
		drawn, err := c.draw(t.Context(), Options{Rounds: 1})
		require.NoError(t, err, c.name)
		for _, l := range drawn.lines {
			require.Len(t, l.points, 1, c.name)
			require.Positive(t, l.points[0].y, "%s, %s", c.name, l.name)
		}
		kept := Chart{c.name, c.help, *drawn}
		require.NoError(t, wellFormed(kept.SVG()))
		require.NoError(t, kept.Write(&out))
	}
	for _, c := range Curves() {
		require.Contains(t, out.String(), c.Name+": "+c.Help)
	}
	require.ErrorIs(t, Draw(t.Context(), []string{"nowhere"}, Options{Rounds: 1}, nil), ErrNoPath)
}
