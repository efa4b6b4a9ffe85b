// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/scenarios"
)

// cause is what failures have in common that probably have one: where a program
// decided, and what is not as it was expected. Where no frame tells, hook and line
// are empty, and what is the step's verb with the problem, without names and numbers.
type cause struct {
	hook   model.Hook
	line   string // of the source: FILE:LINE
	reason string // the decision, with the reason of a drop
	what   string
}

func (c cause) String() string {
	if c.hook == "" {
		return c.what
	}
	return fmt.Sprintf("%s at %s, %s: %s", c.hook, cmp.Or(c.line, "a line that is not known"), c.reason, c.what)
}

func causeOf(r scenarios.Result) cause {
	f := r.Failure
	if f == nil { // it was read back
		return cause{what: cmp.Or(r.Cause, plain(r.Reason, ""))}
	}
	step, what := decisive(f)
	if step == nil {
		verb, _, _ := strings.Cut(f.Step, " ")
		problem := firstLine(f.Problem)
		if r.Reason != "" && !strings.HasPrefix(r.Reason, f.Pos.String()) { // it says more than the first line of many
			problem = r.Reason
		}
		return cause{what: verb + ": " + plain(problem, f.Step)}
	}
	c := cause{hook: step.Hook, reason: string(step.Decision.Action), what: what}
	if step.Decision.Reason != "" {
		c.reason += " " + string(step.Decision.Reason)
	}
	if step.Decision.File != "" {
		c.line = placeOf(step.Decision)
	}
	return c
}

// decisive gives the hook's part at which a failure began, as far as the story
// tells, and what is wrong there; nil if no frame met a hook.
func decisive(f *scenarios.Failure) (step *lab.Step, what string) {
	if walk, step, d := disputed(f); d != nil {
		return &f.Walks[walk].Steps[step], difference(strings.TrimPrefix(d.Want, "the model: "), strings.TrimPrefix(d.Got, "the datapath: "))
	}
	what = plain(firstLine(f.Problem), f.Step)
	if len(f.Details) > 0 {
		what = f.Details[0].Field
	}
	for _, w := range f.Walks {
		if len(w.Steps) > 0 && len(w.Faults) > 0 {
			return &w.Steps[len(w.Steps)-1], plain(w.Faults[0], f.Step)
		}
		if len(w.Steps) > 0 {
			step = &w.Steps[len(w.Steps)-1]
		}
	}
	return step, what
}

// disputed gives the hook's part on which model and datapath disagree, as indices of
// the walk and of its step, with what they say; nil where they agree.
func disputed(f *scenarios.Failure) (walk, step int, d *scenarios.Detail) {
	for i := range f.Details {
		for walk, w := range f.Walks {
			for step, s := range w.Steps {
				if f.Details[i].Field == fmt.Sprintf("%s of %s", s.Hook, s.Endpoint) {
					return walk, step, &f.Details[i]
				}
			}
		}
	}
	return 0, 0, nil
}

// difference names what two outcomes of one frame do not have in common.
func difference(want, got string) string {
	wanted, was := strings.Fields(want), strings.Fields(got)
	if len(wanted) == 0 || len(was) == 0 || wanted[0] != was[0] {
		return "action"
	}
	var parts []string
	part := ""
	for i := range min(len(wanted), len(was)) { // behind that come remarks
		switch {
		case i+1 < len(wanted) && wanted[i+1] == "->":
			part = "source"
		case wanted[i] == "->" || wanted[i] == "out":
			part = map[string]string{"->": "destination", "out": "way out"}[wanted[i]]
		}
		if wanted[i] != was[i] && !slices.Contains(parts, cmp.Or(part, "reason")) {
			parts = append(parts, cmp.Or(part, "reason"))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "translation")
}

// plain takes names and numbers out of a text: words of the step, and those that
// have a digit, a dot within or a slash. What is in braces or brackets goes too.
func plain(text, step string) string {
	named := strings.Fields(step)
	var words []string
	for _, word := range strings.Fields(text) {
		inner := strings.TrimRight(word, ".,:;")
		if strings.ContainsAny(word, "{[") {
			words = append(words, "…")
			break
		}
		if slices.Contains(named, inner) || strings.ContainsAny(inner, "./") || strings.ContainsFunc(inner, unicode.IsDigit) || inner == "->" {
			word = "…"
		}
		if word != "…" || len(words) == 0 || words[len(words)-1] != "…" {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// group is failures with one cause.
type group struct {
	cause   string
	results []scenarios.Result
	short   scenarios.Result // whose story is the shortest
	story   string
}

// groupsOf groups what failed by cause, the most frequent first.
func groupsOf(results []scenarios.Result) []*group {
	at := map[string]*group{}
	var out []*group
	for _, r := range results {
		if !r.Failed() {
			continue
		}
		c := causeOf(r).String()
		g := at[c]
		if g == nil {
			g = &group{cause: c, short: r}
			at[c], out = g, append(out, g)
		}
		g.results = append(g.results, r)
	}
	slices.SortStableFunc(out, func(a, b *group) int { return -cmp.Compare(len(a.results), len(b.results)) })
	return out
}

// tell finds the shortest story of the group.
func (g *group) tell(story func(scenarios.Result) string) {
	for _, r := range g.results {
		if s := strings.TrimRight(story(r), "\n"); s != "" && (g.story == "" || len(s) < len(g.story)) {
			g.short, g.story = r, s
		}
	}
}

// How much of the groups is shown, so that a screen or two have all: whole stories
// are in the report's folder.
const (
	toldGroups   = 4   // with their story
	listedGroups = 6   // behind them, with a line each
	storiesLines = 36  // of all stories together
	storyColumns = 200 // of a story's line, where there are several
	namesShown   = 3
)

// Failures shows what failed, by cause: each once with its count, where it failed,
// some names, and the shortest story; and of many causes the most frequent. Capture
// gives the path of a failure's capture; it may be nil.
func (t *Text) Failures(results []scenarios.Result, capture func(scenarios.Result) string) {
	t.told(results, func(r scenarios.Result) string {
		if r.Failure == nil {
			return ""
		}
		return t.Story(r)
	}, capture)
}

// told shows what failed, with a story for each that has one.
func (t *Text) told(results []scenarios.Result, story, capture func(scenarios.Result) string) {
	groups := groupsOf(results)
	if len(groups) == 0 {
		return
	}
	title := fmt.Sprintf("What failed, %d by %d causes:", Count(results).Failed, len(groups))
	if len(groups) == 1 {
		title = fmt.Sprintf("What failed, %d by one cause:", Count(results).Failed)
	}
	fmt.Fprintf(t.Out, "\n%s\n", t.paint(bold, title))
	told := min(toldGroups, len(groups))
	for i, g := range groups[:told] {
		g.tell(story)
		t.group(i+1, g, told, capture)
	}
	listed := min(told+listedGroups, len(groups))
	for i, g := range groups[told:listed] {
		fmt.Fprintf(t.Out, "%d. %d × %s (%s)\n", told+i+1, len(g.results), clip(g.cause), names(g.results, 1))
	}
	if rest := groups[listed:]; len(rest) > 0 {
		n := 0
		for _, g := range rest {
			n += len(g.results)
		}
		fmt.Fprintf(t.Out, "and %d failures of other causes (%d)\n", n, len(rest))
	}
	fmt.Fprintln(t.Out)
}

// group shows one of several that are told.
func (t *Text) group(number int, g *group, told int, capture func(scenarios.Result) string) {
	fmt.Fprintf(t.Out, "%s %d × %s\n", t.paint(bold, fmt.Sprintf("%d.", number)), len(g.results), clip(g.cause))
	fmt.Fprintf(t.Out, "    %s; %s\n", t.places(g.results), names(g.results, namesShown))
	story := g.story
	if told > 1 {
		story = shorten(story, storiesLines/told)
	}
	if story != "" {
		fmt.Fprintln(t.Out, indent(story, "    "))
	}
	if capture == nil || g.story == "" {
		return
	}
	if path := capture(g.short); path != "" {
		fmt.Fprintf(t.Out, "    capture: %s\n", path)
	}
}

// places are the worlds and kernels of results.
func (t *Text) places(results []scenarios.Result) string {
	var worlds, kernels []string
	for _, r := range results {
		if !slices.Contains(worlds, string(r.World)) {
			worlds = append(worlds, string(r.World))
		}
	}
	for _, k := range releases(results) {
		kernels = append(kernels, cmp.Or(t.Names[k], version(k)))
	}
	return fmt.Sprintf("%s on %s", strings.Join(worlds, ", "), strings.Join(kernels, ", "))
}

// names are those of the first few of the scenarios.
func names(results []scenarios.Result, few int) string {
	var all []string
	for _, r := range results {
		if !slices.Contains(all, r.Scenario) {
			all = append(all, r.Scenario)
		}
	}
	if more := len(all) - few; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:few], ", "), more)
	}
	return strings.Join(all, ", ")
}

// shorten leaves the beginning of a story and its last line, which repeats it.
func shorten(story string, lines int) string {
	all := strings.Split(story, "\n")
	if len(all) > lines {
		last := all[len(all)-1]
		all = append(all[:lines-2:lines-2], fmt.Sprintf("… %d more lines", len(all)-lines+1), last)
	}
	for i := range all {
		all[i] = clip(all[i])
	}
	return strings.Join(all, "\n")
}

func clip(line string) string { return clipTo(line, storyColumns) }

// clipTo shortens a text to so many characters.
func clipTo(text string, most int) string {
	if len(text) <= most {
		return text
	}
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}
