// SPDX-License-Identifier: Apache-2.0

package page

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hostile is what nobody names anything, unless to have it run.
const hostile = `"><script>alert(1)</script>' onload=x javascript:?#%2e/{{.}}`

func failureNamed(name string) *Failure {
	return &Failure{
		Scenario: name, World: name, Kernel: name, Outcome: "fail", Pos: name, Step: name, Problem: name, Odd: name,
		Details: []Detail{{name, name, name}}, Topology: twoNodes(), Repeat: name, File: name, Model: []string{name},
		Walks: []Walk{{From: name, Sent: name, To: name, Faults: []string{name}, Steps: []Step{
			{Hook: name, Endpoint: "node", Action: "forward", Reason: name, Rest: name, Place: name, But: name, Tables: name, Before: name, After: name},
		}}},
		Frames: []Frame{{name, name}},
	}
}

func runNamed(name string) *Run {
	return &Run{
		Short: name, Problems: []string{name}, Failed: 1, Facts: []Fact{{name, name}}, Counts: []Count{{name, 1, name}},
		Causes: []Cause{{N: 1, Text: name, Places: name, Names: []Link{{name, name}}, Tale: failureNamed(name)}, {N: 1, Text: name, Story: name}},
		Worlds: []World{{"prog", []string{name}}}, Rows: []Row{{name, []Cell{{Outcome: "fail", File: name}}}, {"other/ipv6", []Cell{{Outcome: "pass", Note: 1}}}},
		Notes: []string{name}, Slowest: []Slow{{name, name, name, 1, name}}, Files: []Link{{name, name}},
	}
}

func pageOf(t *testing.T, of interface{ Write(io.Writer) error }) string {
	t.Helper()
	var out strings.Builder
	require.NoError(t, of.Write(&out))
	return out.String()
}

func TestNoNameIsMarkup(t *testing.T) {
	failure, run := failureNamed(hostile), runNamed(hostile)
	failure.Topology.Pods[0].Name, failure.Topology.Nodes[0].Name = hostile, hostile
	for _, text := range []string{pageOf(t, failure), pageOf(t, run)} {
		require.NotContains(t, text, "<script>alert")
		require.NotContains(t, text, `"><script`)
		links := regexp.MustCompile(`(?:href|src)="([^"]*)"`).FindAllStringSubmatch(text, -1)
		require.NotEmpty(t, links)
		for _, link := range links {
			require.Regexp(t, `^(\./[^?#/]+|#[a-z0-9]+|index\.html)$`, link[1], "a link is to a file beside the page, or into it")
		}
	}
}

func TestAPageNeedsNothingButItself(t *testing.T) {
	for _, text := range []string{pageOf(t, failureNamed("name")), pageOf(t, runNamed("name"))} {
		require.NotRegexp(t, `https?://|@import|url\(`, text)
		require.Contains(t, text, "default-src 'none'")
		require.Contains(t, text, "prefers-color-scheme: dark")
	}
}

// browser shows a page in Chromium, and gives what it has become.
func browser(t *testing.T, text, fragment string, width int) string {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("pages are looked at in Chromium, which is not here: apt-get install chromium")
	}
	path := filepath.Join(t.TempDir(), "index.html")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	cmd := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir="+t.TempDir(),
		fmt.Sprintf("--window-size=%d,900", width), "--dump-dom", "file://"+path+fragment)
	out, err := cmd.Output()
	require.NoError(t, err)
	return string(out)
}

func TestABrowserFiltersRowsByWords(t *testing.T) {
	text := pageOf(t, runNamed("service/ipv4"))
	for fragment, shown := range map[string]string{"": "", "#words=fail%20SERVICE": "1 of 2", "#words=nothing": "0 of 2", "#words=ipv": "2 of 2"} {
		dom := browser(t, text, fragment, 1000)
		require.True(t, strings.Contains(dom, `aria-live="polite">`+shown+`</span>`), "%s: %q", fragment, shown)
		want := map[string]int{"": 0, "1 of 2": 1, "0 of 2": 2, "2 of 2": 0}[shown]
		require.Equal(t, want, strings.Count(dom, `<tr hidden="">`), fragment)
	}
}

// What does not fit scrolls in itself: a page is never wider than its window.
func TestAPageFitsItsWindow(t *testing.T) {
	measure := `<script>document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth ? 'too wide' : 'fits';</script></body>`
	long := strings.Repeat("a-long-word-", 30)
	for _, text := range []string{pageOf(t, failureNamed(long)), pageOf(t, runNamed(long))} {
		for _, width := range []int{400, 800, 1600} {
			dom := browser(t, strings.Replace(text, "</body>", measure, 1), "", width)
			require.True(t, strings.Contains(dom, `data-wide="fits"`), "%d pixels: %.60s", width, text[strings.Index(text, "<title>"):])
		}
	}
}
