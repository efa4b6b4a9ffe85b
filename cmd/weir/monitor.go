// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model/manifest"
)

// monitorFlags choose among events.
type monitorFlags struct {
	socketFlags
	drops    bool
	endpoint string
	pod      string
	reason   string
	during   time.Duration
}

func monitorCommand() *cobra.Command {
	var flags monitorFlags
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Show what the datapath of this node decides, as it does",
		Long: `Show what the datapath of this node decides, as it does, until interrupted.

There is an event for every new flow and every drop, up to a bound a second:
counters count them all (metrics). A drop names its reason, the policy that
denied where one did, and the place in the datapath's source. Addresses and
ports that the packet leaves with, or would have, stand behind "as" where they
differ.`,
		Example: `  weir monitor --drops
  weir monitor --pod default/web
  weir monitor --reason policy-ingress -o json |
      jq '{source, destination, policy}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.check(); err != nil {
				return usageError(err)
			}
			client, err := flags.client()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if flags.during > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, flags.during)
				defer cancel()
			}
			return client.Stream(ctx, api.PathMonitor, func(line json.RawMessage) error {
				return flags.print(cmd.OutOrStdout(), line)
			})
		},
	}
	flags.register(cmd)
	f := cmd.Flags()
	f.BoolVar(&flags.drops, "drops", false, "only what is not let through")
	f.DurationVar(&flags.during, "for", 0, "end after this time (default: when interrupted)")
	f.StringVar(&flags.endpoint, "endpoint", "", "only at the device of this pod, `namespace/name`")
	f.StringVar(&flags.pod, "pod", "", "only from or to this pod of any node, `namespace/name`")
	f.StringVar(&flags.reason, "reason", "", "only with this `reason`, as the events have it: policy-ingress for one")
	return cmd
}

func (f *monitorFlags) check() error {
	if f.during < 0 {
		return fmt.Errorf("--for %s: it is a time from now on", f.during)
	}
	for flag, name := range map[string]string{"endpoint": f.endpoint, "pod": f.pod} {
		if name != "" && strings.Count(name, "/") != 1 {
			return fmt.Errorf("--%s %s: a pod is named by its namespace and its name: --%s default/%s", flag, name, flag, name)
		}
	}
	return oneReason(f.reason)
}

// oneReason refuses a reason that there is none of, with those that there are.
func oneReason(name string) error {
	known := reasonNames()
	if name == "" || slices.Contains(known, name) {
		return nil
	}
	if meant := manifest.Closest(name, known...); meant != "" {
		return fmt.Errorf("--reason %s: there is no such reason: did you mean %s?", name, meant)
	}
	return fmt.Errorf("--reason %s: there is no such reason: it is one of %s", name, strings.Join(known, ", "))
}

func (f *monitorFlags) wants(e *api.Event) bool {
	isPod := func(p *api.Party) bool { return p != nil && p.Kind == "Pod" && p.Name == f.pod }
	switch {
	case e.Missed > 0:
		return true
	case f.drops && e.Verdict != "drop":
	case f.endpoint != "" && e.Endpoint != f.endpoint:
	case f.reason != "" && e.Reason != f.reason:
	case f.pod != "" && e.Endpoint != f.pod && !isPod(e.SourceParty) && !isPod(e.TargetParty):
	default:
		return true
	}
	return false
}

func (f *monitorFlags) print(w io.Writer, line json.RawMessage) error {
	var e api.Event
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("read an event: %w", err)
	}
	if !f.wants(&e) {
		return nil
	}
	if f.format == "json" {
		_, err := fmt.Fprintf(w, "%s\n", line)
		return err
	}
	_, err := fmt.Fprintln(w, eventLine(&e))
	return err
}

func eventLine(e *api.Event) string {
	at := e.Time.Format("15:04:05.000")
	if e.Missed > 0 {
		return fmt.Sprintf("%s  %d events were missed: whoever reads these is too slow", at, e.Missed)
	}
	verdict := e.Verdict
	if e.Reason != "" {
		verdict += " " + e.Reason
	}
	protocol := e.Protocol
	if e.TCPFlags != "" {
		protocol += " " + e.TCPFlags
	}
	text := fmt.Sprintf("%s  %-14s %-24s %s %s > %s", at, e.Hook, dash(e.Endpoint), protocol, party(e.Source, e.SourceParty), party(e.Target, e.TargetParty))
	if e.SourceAfter != "" || e.TargetAfter != "" {
		text += " as " + cmp.Or(e.SourceAfter, e.Source) + " > " + cmp.Or(e.TargetAfter, e.Target)
	}
	if e.Reply {
		text += " (reply)"
	}
	text += "  " + verdict
	if e.Policy != "" {
		text += " by " + e.Policy
	}
	if e.Place != "" && e.Verdict != "forward" {
		text += " (" + e.Place + ")"
	}
	return text
}

// party names who has an address, and its port.
func party(at string, p *api.Party) string {
	if p == nil {
		return at
	}
	name := p.Name
	if p.Kind != "Pod" {
		name = strings.ToLower(p.Kind) + " " + name
	}
	addr, err := netip.ParseAddrPort(at)
	if err != nil {
		return name + " (" + at + ")"
	}
	return fmt.Sprintf("%s (%s) :%d", name, addr.Addr(), addr.Port())
}
