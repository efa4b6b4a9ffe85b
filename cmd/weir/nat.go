// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/datapath"
)

func natCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nat",
		Short: "Show the sources that a running datapath translates",
	}
	cmd.AddCommand(natListCommand())
	return cmd
}

// natRow is a translated source as it is printed.
type natRow struct {
	Protocol string         `json:"protocol"`
	Inside   netip.AddrPort `json:"inside"`
	Outside  netip.AddrPort `json:"outside"`
	Peer     netip.AddrPort `json:"peer"`
	Name     string         `json:"name,omitempty"` // of who is inside
	Service  string         `json:"service,omitempty"`
	State    string         `json:"state"`
	Idle     float64        `json:"idleSeconds"`
	Taken    int            `json:"takenPorts"` // towards this peer
	Ports    int            `json:"ports"`      // that there are
}

func newNATRow(n *datapath.NAT) natRow {
	return natRow{
		Protocol: n.Protocol.String(), Inside: n.Inside, Outside: n.Outside, Peer: n.Peer,
		Name: n.Name.String(), Service: n.Service.String(), State: string(n.State), Idle: n.Idle.Seconds(),
		Taken: n.Taken, Ports: n.Ports,
	}
}

func (r *natRow) columns() string {
	idle := time.Duration(r.Idle * float64(time.Second)).Truncate(time.Second)
	return strings.Join([]string{
		r.Protocol, r.Inside.String(), r.Outside.String(), r.Peer.String(), dash(r.Name), r.State,
		idle.String(), dash(r.Service), fmt.Sprintf("%d/%d (%.1f %%)", r.Taken, r.Ports, 100*float64(r.Taken)/float64(r.Ports)),
	}, "\t")
}

func natListCommand() *cobra.Command {
	var flags tablesFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List translated sources, the fullest destination first",
		Long: `List translated sources, the fullest destination first: of pods
that leave the cluster, and of clients that are led to backends elsewhere.

A source port stands for one flow towards each destination: PORTS says how many
of the ports that there are are taken towards the destination of that line.
Where none is left a new flow is dropped, no-source-port.`,
		Example: `  weir nat list
  weir nat list -o json | jq -s 'first | .takenPorts / .ports'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.view(func(v *datapath.View) error {
				rows, err := natRows(v)
				if err != nil {
					return err
				}
				return vmPrint(flags.vmOutput, cmd.OutOrStdout(), "PROTOCOL\tINSIDE\tOUTSIDE\tPEER\tNAME\tSTATE\tIDLE\tSERVICE\tPORTS", rows, func(r natRow) string {
					return r.columns()
				})
			})
		},
	}
	flags.register(cmd)
	return cmd
}

func natRows(v *datapath.View) ([]natRow, error) {
	nats, err := v.NATs()
	if err != nil {
		return nil, err
	}
	rows := []natRow{}
	for i := range nats {
		rows = append(rows, newNATRow(&nats[i]))
	}
	slices.SortFunc(rows, func(a, b natRow) int {
		return cmp.Or(cmp.Compare(b.Taken, a.Taken), cmp.Compare(a.Protocol, b.Protocol),
			a.Peer.Compare(b.Peer), a.Outside.Compare(b.Outside), a.Inside.Compare(b.Inside))
	})
	return rows, nil
}
