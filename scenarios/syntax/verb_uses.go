// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

func init() {
	define("uses", verbSpec{"uses [no] " + strings.Join(features, "|") + " [from RELEASE [backported RELEASE...]]",
		"whether the datapath uses a feature of the kernel: on kernels from that release on, and not on older ones", parseUses})
}

// Uses checks whether the datapath uses a feature of the kernel.
type Uses struct {
	Feature    string
	Not        bool     // on no kernel
	From       string   // the oldest release that has it, or "": all
	Backported []string // older releases to which it was added since
}

func parseUses(l *line) (Verb, error) {
	v := &Uses{Not: l.accept("no")}
	t := l.next()
	if !slices.Contains(features, t.value) {
		return nil, l.expected("a feature ("+strings.Join(features, ", ")+")", t)
	}
	v.Feature = t.value
	if v.Not || !l.accept("from") {
		return v, nil
	}
	words, err := l.words("a release like 6.6")
	if err != nil {
		return nil, err
	}
	v.From, v.Backported = words[0], words[1:]
	if len(v.Backported) > 0 && v.Backported[0] == "backported" {
		v.Backported = v.Backported[1:]
	}
	for _, r := range append([]string{v.From}, v.Backported...) {
		if !release.MatchString(r) {
			return nil, fmt.Errorf("expected a release like 6.6, found '%s'\n\tusage: %s", r, l.usage)
		}
	}
	return v, nil
}

func (v *Uses) check(c *checker, s *Step) {
	c.notLive(s.Pos, "uses")
	if v.Feature == "tcx" && slices.Contains(c.file.Worlds, Prog) {
		c.failf(s.Pos, "uses: world prog attaches programs to nothing, but the scenario declares it: remove the line, or declare 'worlds netns'")
	}
}

// Effect is of what kind it is.
func (*Uses) Effect() Effect { return Checks }

// Run does it in a world.
func (v *Uses) Run(ctx context.Context, p Player) error { return p.Uses(ctx, v) }

// Rehearse has nothing to try.
func (*Uses) Rehearse(context.Context, Player) error { return nil }
