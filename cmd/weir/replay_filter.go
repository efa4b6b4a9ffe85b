// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/weirnet/weir/pcap"
	"github.com/weirnet/weir/replay"
	"github.com/weirnet/weir/scenarios/syntax"
)

// replayFilter is what a replay shows, as the command line has it.
type replayFilter struct {
	drops      bool
	from, to   []string
	reasons    []string
	expression string
	count      int
}

func (f *replayFilter) flags(flags *pflag.FlagSet) {
	flags.BoolVar(&f.drops, "drops", false, "show only what is dropped")
	flags.StringSliceVar(&f.from, "from", nil, "show only what is from `WHOM`: an address, a prefix, or the name of a pod, service or node of --state")
	flags.StringSliceVar(&f.to, "to", nil, "show only what is for `WHOM`, before or after it was translated")
	flags.StringSliceVar(&f.reasons, "reason", nil, "show only what has one of these reasons")
	flags.StringVar(&f.expression, "filter", "", "replay only what this `EXPRESSION` of tcpdump means, such as 'tcp port 80'")
	flags.Var(count{&f.count}, "count", "end after `N` packets that are shown, or whose connection is")
}

// given is a flag of these that the command line has.
func (f *replayFilter) given() string {
	for flag, is := range map[string]bool{"drops": f.drops, "from": f.from != nil, "to": f.to != nil, "reason": f.reasons != nil, "count": f.count > 0} {
		if is {
			return flag
		}
	}
	return ""
}

// compile reads the expression; nil where there is none.
func (f *replayFilter) compile(ctx context.Context) (*pcap.Expression, error) {
	if f.expression == "" {
		return nil, nil
	}
	e, err := pcap.Compile(ctx, f.expression)
	switch {
	case errors.Is(err, pcap.ErrExpression):
		return nil, usageError(err)
	case errors.Is(err, pcap.ErrNoCompiler):
		return nil, fmt.Errorf("%w: install it, or choose packets by --from, --to and --reason", err)
	}
	return e, err
}

// read makes a filter of the flags, for the objects of a replay; nil where none is
// given.
func (f *replayFilter) read(r *replay.Replay) (*replay.Filter, error) {
	if !f.drops && f.from == nil && f.to == nil && f.reasons == nil {
		return nil, nil
	}
	filter := &replay.Filter{Drops: f.drops, Reasons: f.reasons}
	for _, side := range []struct {
		flag  string
		texts []string
		ends  *[]replay.End
	}{{"from", f.from, &filter.From}, {"to", f.to, &filter.To}} {
		for _, text := range side.texts {
			end, err := r.ReadEnd(text)
			if err != nil {
				return nil, usageError(fmt.Errorf("--%s %w", side.flag, err))
			}
			*side.ends = append(*side.ends, end)
		}
	}
	return filter, nil
}

// checkReasons refuses reasons that nothing is ever dropped for.
func (f *replayFilter) checkReasons() error {
	known := reasonNames()
	for _, reason := range f.reasons {
		if !slices.Contains(known, reason) {
			return usageError(fmt.Errorf("--reason %s: there is none of that name; there are %s", reason, strings.Join(known, ", ")))
		}
	}
	return nil
}

func reasonNames() []string {
	reasons := syntax.Reasons()
	names := make([]string, 0, len(reasons))
	for _, r := range reasons {
		names = append(names, string(r))
	}
	slices.Sort(names)
	return names
}
