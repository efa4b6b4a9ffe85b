// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/policy"
)

type policySuggest struct {
	files   []string
	output  string
	objects policyObjects
	options policy.SuggestOptions
}

func policySuggestCommand() *cobra.Command {
	var o policySuggest
	cmd := &cobra.Command{
		Use:   "suggest FLOWS... {-f OBJECTS | --kubeconfig FILE}",
		Short: "Write the least NetworkPolicies that allow recorded flows",
		Long: `Write the least NetworkPolicies that allow recorded flows, and say what
they would cut.

FLOWS is what 'weir monitor -o json' or 'weir flow list -o json' has printed, or
a capture (pcap or pcapng); - is the standard input. A flow is its first packet:
replies, and TCP whose SYN was not recorded, open nothing. Flows that a policy
has denied are left out, and so are pings, for which a NetworkPolicy has no rule
but one that allows all ports. How many, and why, is told.

There is one policy for each workload that is an end of a flow, for ingress and
egress: it isolates that workload in both directions. Other workloads are not
selected. Workloads are named by labels that their next pods have too, never by
a hash, a version or a pod's name; peers by namespace and labels; services by
the pods behind them and their ports; nodes, and who is outside, by their
addresses. A node always reaches its own pods, so probes of kubelet need no
rule.

The policies go to the standard output, for 'kubectl apply -f -'. The report
goes to the standard error: each recorded flow is asked of them beside the
policies that are there, and so is each pair of workloads on every port on which
a rule could tell a difference. Nothing is written if a recorded flow would be
denied all the same.

The exit status is 0 when policies are written, 1 when a recorded flow would be
denied, and 2 when there is no answer, because flows, objects or the command
line are wrong.`,
		Example: `  weir monitor -o json > flows.json
  weir policy suggest flows.json --kubeconfig ~/.kube/config > policies.yaml
  weir policy suggest capture.pcap -f manifests/ | kubectl apply -f -
  weir policy suggest flows.json -f all.yaml -o json | jq '.cut[]'`,
		RunE: func(cmd *cobra.Command, args []string) error { return noAnswerBut(o.run(cmd, args)) },
	}
	f := cmd.Flags()
	f.StringSliceVarP(&o.files, "objects", "f", nil, "`files` or folders of the cluster's objects")
	f.BoolVar(&o.options.Dropped, "include-dropped", false, "allow flows that policies have denied, too")
	f.BoolVar(&o.options.ICMP, "icmp", false, "allow pings, too: by rules that allow all ports between the two")
	f.BoolVar(&o.options.SkipUnknown, "skip-unknown", false, "leave out flows of pods that are not among the objects")
	f.IntVar(&o.options.Bits4, "prefix-v4", 32, "widen addresses outside of the cluster to this `length`")
	f.IntVar(&o.options.Bits6, "prefix-v6", 128, "the same `length` for IPv6")
	f.StringVarP(&o.output, "output", "o", "yaml", "yaml, or json (one object: policies, and all of the report)")
	o.objects.addFlag(cmd, "those of -f take the place of those of the same name")
	return cmd
}

func (o *policySuggest) check(args []string) error {
	if err := oneOf("output", o.output, "yaml", "json"); err != nil {
		return err
	}
	switch stdin := slices.Contains(args, "-"); {
	case len(args) == 0:
		return usageError(errors.New("which flows? Name what 'weir monitor -o json' has printed, or a capture\nSee 'weir policy suggest --help'"))
	case len(o.files) == 0 && !o.objects.live():
		return usageError(errors.New("whose flows are these? Give the cluster's objects by -f, or --kubeconfig\nSee 'weir policy suggest --help'"))
	case stdin && slices.Contains(o.files, "-"):
		return usageError(errors.New("the standard input is either flows or objects: give one of them as a file"))
	case o.options.Bits4 < 0 || o.options.Bits4 > 32:
		return usageError(fmt.Errorf("--prefix-v4 %d: it is from 0 to 32", o.options.Bits4))
	case o.options.Bits6 < 0 || o.options.Bits6 > 128:
		return usageError(fmt.Errorf("--prefix-v6 %d: it is from 0 to 128", o.options.Bits6))
	}
	return nil
}

func (o *policySuggest) run(cmd *cobra.Command, args []string) error {
	if err := o.check(args); err != nil {
		return err
	}
	record := new(policy.Record)
	for _, name := range args {
		one, err := readRecord(cmd.Context(), cmd.InOrStdin(), name)
		if err != nil {
			return err
		}
		record.Merge(one)
	}
	input, err := o.objects.read(cmd, o.files...)
	if err != nil {
		return err
	}
	found, err := policy.Suggest(input, record, o.options)
	if err != nil {
		return err
	}
	tell := cmd.ErrOrStderr()
	tellRecord(tell, record)
	if len(found.Lost) > 0 {
		for _, lost := range found.Lost {
			fmt.Fprintln(tell, "weir: still", lost)
		}
		return &exitError{exitFailed, fmt.Errorf("%d of %d recorded flows would be denied whatever is added: change the policies that are named", len(found.Lost), found.Flows)}
	}
	if o.output == "json" {
		return writeSuggestion(cmd.OutOrStdout(), found)
	}
	tellSuggestion(tell, found)
	return writePolicies(cmd.OutOrStdout(), found.Policies)
}

func readRecord(ctx context.Context, in io.Reader, name string) (*policy.Record, error) {
	if name == "-" {
		return policy.ReadRecord(ctx, "standard input", in)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read flows: %w", err)
	}
	defer file.Close()
	return policy.ReadRecord(ctx, name, file)
}

func writePolicies(out io.Writer, policies []*networkingv1.NetworkPolicy) error {
	buffered := bufio.NewWriter(out)
	for i, p := range policies {
		text, err := yaml.Marshal(p)
		if err != nil {
			return fmt.Errorf("write policies: %w", err)
		}
		if i > 0 {
			fmt.Fprintln(buffered, "---")
		}
		_, _ = buffered.Write(text) // Flush tells
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("write policies: %w", err)
	}
	return nil
}

func tellRecord(out io.Writer, r *policy.Record) {
	if r.Missed > 0 {
		fmt.Fprintf(out, "weir: %d events were missed when it was recorded: flows may be lacking\n", r.Missed)
	}
	if r.Cut {
		fmt.Fprintln(out, "weir: the last line of the record is not whole, and passed over")
	}
}

// mostCuts is how many pairs the report names.
const mostCuts = 10

func tellSuggestion(out io.Writer, s *policy.Suggestion) {
	fmt.Fprintf(out, "%d policies: all of %d recorded flows stay allowed\n", len(s.Policies), s.Flows)
	for _, why := range slices.Sorted(maps.Keys(s.Left)) {
		fmt.Fprintf(out, "left out, %d flows: %s\n", s.Left[why], why)
	}
	for _, sentence := range s.Broad {
		fmt.Fprintln(out, "wider than recorded:", sentence)
	}
	if s.Unselected > 0 {
		fmt.Fprintf(out, "not selected by these, since no flow names them: %d workloads\n", s.Unselected)
	}
	cut, opened := s.Cut(), s.Opened()
	if len(opened) > 0 {
		fmt.Fprintf(out, "opened: %d pairs that are denied today, the first of them %s\n", policy.CountPairs(opened), opened[0])
	}
	fmt.Fprintf(out, "cut: %d pairs that are allowed today\n", policy.CountPairs(cut))
	lines := pairLines(cut)
	for i, line := range lines {
		if i == mostCuts {
			fmt.Fprintf(out, "  and %d more: -o json has them all\n", len(lines)-i)
			break
		}
		fmt.Fprintln(out, " ", line)
	}
}

// pairLines is a line for each pair, with its ports.
func pairLines(changes []policy.Change) []string {
	var lines []string
	for i := range changes {
		c := &changes[i]
		if i > 0 && changes[i-1].From == c.From && changes[i-1].To == c.To {
			lines[len(lines)-1] += ", " + c.Ports()
			continue
		}
		lines = append(lines, fmt.Sprintf("%s to %s: %s", c.From, c.To, c.Ports()))
	}
	return lines
}

func writeSuggestion(out io.Writer, s *policy.Suggestion) error {
	list := networkingv1.NetworkPolicyList{}
	list.Kind, list.APIVersion = "NetworkPolicyList", networkingv1.SchemeGroupVersion.String()
	for _, p := range s.Policies {
		list.Items = append(list.Items, *p)
	}
	err := json.NewEncoder(out).Encode(map[string]any{
		"policies": list, "flows": s.Flows, "leftOut": s.Left, "widened": append([]string{}, s.Broad...), "unselectedWorkloads": s.Unselected,
		"cut": append([]policy.Change{}, s.Cut()...), "opened": append([]policy.Change{}, s.Opened()...),
	})
	if err != nil {
		return fmt.Errorf("write suggestion: %w", err)
	}
	return nil
}
