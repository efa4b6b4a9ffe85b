// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/policy"
)

type policyDiff struct {
	flows    string
	output   string
	exitCode bool
	objects  policyObjects
}

func policyDiffCommand() *cobra.Command {
	var o policyDiff
	cmd := &cobra.Command{
		Use:   "diff [OLD] NEW",
		Short: "Say which pairs of pods a change of policies connects or cuts",
		Long: `Say which pairs of pods a change of policies connects or cuts.

OLD and NEW are files or folders of all objects before and after the change.
Every pair of pods is compared, on every port on which any rule could tell a
difference, and so are pods with who is outside: each address block that a
policy names, and the rest of the world.

With --kubeconfig, OLD is a live cluster, and NEW the same with the objects that
are given in place of those of the same name, or beside them.

With --flows, the flows of a capture (pcap or pcapng), or those that
'weir flow list -o json' or 'weir monitor -o json' has printed, are asked of
both, and those are named that the change would cut. A flow to a service is
asked of each backend.

The exit status is 0 when there is an answer, 1 when something changed and
--exit-code is given, and 2 when there is no answer, because the objects, the
recorded flows or the command line are wrong.`,
		Example: `  weir policy diff before/ after/
  weir policy diff before.yaml after.yaml --flows capture.pcap
  weir policy diff --kubeconfig ~/.kube/config new-policy.yaml
  weir policy diff --exit-code before/ after/ -o json`,
		RunE: func(cmd *cobra.Command, args []string) error { return noAnswerBut(o.run(cmd, args)) },
	}
	f := cmd.Flags()
	f.StringVar(&o.flows, "flows", "", "recorded flows: a capture, or JSON of 'weir flow list' or 'weir monitor'")
	f.StringVarP(&o.output, "output", "o", "text", "text, or json (one object a line)")
	o.objects.addFlag(cmd, "the only argument is what is to take the place of objects there")
	f.BoolVar(&o.exitCode, "exit-code", false, "end with exit status 1 when something changed")
	return cmd
}

func (o *policyDiff) run(cmd *cobra.Command, args []string) error {
	if err := oneOf("output", o.output, "text", "json"); err != nil {
		return err
	}
	before, after, err := o.sides(cmd, args)
	if err != nil {
		return err
	}
	tellWarnings(cmd.ErrOrStderr(), after.Warnings)
	for _, w := range before.Warnings {
		if !slices.Contains(after.Warnings, w) {
			fmt.Fprintln(cmd.ErrOrStderr(), "weir: warning, before the change:", w)
		}
	}
	changes, err := policy.Compare(before, after)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	for _, c := range changes {
		if err := o.tell(out, c); err != nil {
			return err
		}
	}
	var cut []policy.Cut
	asked := 0
	if o.flows != "" {
		flows, err := policy.ReadFlows(cmd.Context(), o.flows)
		if err != nil {
			return err
		}
		if cut, err = policy.CutFlows(before, after, flows); err != nil {
			return err
		}
		asked = len(flows)
		for _, c := range cut {
			if err := o.tell(out, c); err != nil {
				return err
			}
		}
	}
	if o.output == "text" {
		fmt.Fprintf(out, "%d changes\n", len(changes))
		if o.flows != "" {
			fmt.Fprintf(out, "%d of %d recorded flows would be cut\n", len(cut), asked)
		}
	}
	if o.exitCode && len(changes)+len(cut) > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

func (o *policyDiff) tell(out io.Writer, row fmt.Stringer) error {
	if o.output == "text" {
		_, err := fmt.Fprintln(out, row)
		return err
	}
	if err := json.NewEncoder(out).Encode(row); err != nil {
		return fmt.Errorf("write changes: %w", err)
	}
	return nil
}

// sides are two sets of objects, or those of a live cluster and the same with
// what is given in place of some.
func (o *policyDiff) sides(cmd *cobra.Command, args []string) (before, after *policy.Side, err error) {
	read := func(path string) (*policy.Input, error) { return policy.Read(cmd.InOrStdin(), path) }
	switch {
	case o.objects.live() && len(args) == 1:
		live, err := liveObjects(cmd.Context(), o.objects.kubeconfig, cmd.ErrOrStderr())
		if err != nil {
			return nil, nil, err
		}
		input, err := read(args[0])
		if err != nil {
			return nil, nil, err
		}
		change := input.Objects
		input.Objects = live.Clone()
		input.Objects.Merge(change)
		tellRefused(cmd.ErrOrStderr(), policy.LeaveRefused(live, manifest.NewObjects()))
		policy.LeaveRefused(input.Objects, change) // the same once more
		if before, err = o.side(cmd, o.objects.kubeconfig, &policy.Input{Objects: live}); err != nil {
			return nil, nil, err
		}
		after, err = o.side(cmd, args[0], input)
		return before, after, err
	case o.objects.live():
		return nil, nil, usageError(errors.New("which change? Name the objects that are to take the place of the cluster's\nSee 'weir policy diff --help'"))
	case len(args) != 2:
		return nil, nil, usageError(errors.New("which two? Name the objects before and after\nSee 'weir policy diff --help'"))
	}
	var sides [2]*policy.Side
	for i, path := range args {
		input, err := read(path)
		if err != nil {
			return nil, nil, err
		}
		if sides[i], err = o.side(cmd, path, input); err != nil {
			return nil, nil, err
		}
	}
	return sides[0], sides[1], nil
}

func (o *policyDiff) side(cmd *cobra.Command, path string, input *policy.Input) (*policy.Side, error) {
	input.Substitute()
	if passed := input.PassedOver(); passed != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "weir: %s: passed over: %s\n", path, passed)
	}
	side, err := policy.NewSide(input.Objects)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	tellLeftOut(cmd.ErrOrStderr(), side.LeftOut)
	return side, nil
}
