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
	"github.com/weirnet/weir/model"
)

func flowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "flow",
		Short: "Show the flows that a running datapath knows",
	}
	cmd.AddCommand(flowListCommand())
	return cmd
}

// flowRow is a flow as it is printed: both directions in one.
type flowRow struct {
	Hook       string   `json:"hook"`
	Endpoint   string   `json:"endpoint"`
	Protocol   string   `json:"protocol"`
	Tuple      tupleRow `json:"tuple"`
	Translated tupleRow `json:"translated"`
	From       string   `json:"from,omitempty"`
	To         string   `json:"to,omitempty"`
	Service    string   `json:"service,omitempty"`
	State      string   `json:"state"`
	Out        string   `json:"out,omitempty"`
	Policy     string   `json:"policy,omitempty"`
	Idle       float64  `json:"idleSeconds"`
	Half       bool     `json:"half,omitempty"` // one of its two entries is gone
}

type tupleRow struct {
	Src netip.AddrPort `json:"src"`
	Dst netip.AddrPort `json:"dst"`
}

func newTupleRow(t model.Tuple) tupleRow {
	return tupleRow{netip.AddrPortFrom(t.Src, t.Sport), netip.AddrPortFrom(t.Dst, t.Dport)}
}

func newFlowRow(f *datapath.FlowPair) flowRow {
	return flowRow{
		Hook: string(f.Hook), Endpoint: f.Endpoint, Protocol: f.Tuple.Protocol.String(),
		Tuple: newTupleRow(f.Tuple), Translated: newTupleRow(f.Translated),
		From: f.Src.String(), To: f.Dst.String(), Service: f.Service.String(), State: string(f.State), Out: string(f.Out),
		Policy: f.Policy, Idle: f.Idle.Seconds(), Half: f.Half,
	}
}

// columns are those of the table. What is not translated is not repeated.
func (r *flowRow) columns() string {
	leaves := "-"
	if r.Translated != r.Tuple {
		leaves = fmt.Sprintf("%s > %s", r.Translated.Src, r.Translated.Dst)
	}
	idle := time.Duration(r.Idle * float64(time.Second)).Truncate(time.Second)
	return strings.Join([]string{
		r.Protocol, fmt.Sprintf("%s > %s", r.Tuple.Src, r.Tuple.Dst), leaves,
		dash(r.From), dash(r.To), r.Hook, r.State, idle.String(), dash(r.Service), dash(r.Policy),
	}, "\t")
}

// flowFilter chooses flows; what is empty chooses all.
type flowFilter struct {
	from, to, protocol, service string
	limit                       int
}

func (o *flowFilter) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "who opened it: a pod's namespace/name, an address or a prefix")
	f.StringVar(&o.to, "to", "", "where it leads: a pod's namespace/name, an address or a prefix, before or behind translation")
	f.StringVar(&o.protocol, "proto", "", "tcp, udp, sctp, icmp, icmpv6 or a number")
	f.StringVar(&o.service, "service", "", "the service that it uses: namespace/name:port, whole or in part")
	f.Var(count{&o.limit}, "limit", "print so many at most, the most recently used ones; 0 is all")
}

// end matches who is at one end of a flow.
type end struct {
	name   string
	prefix netip.Prefix
}

// newEnd reads who is meant. What is no address has to look like a name.
func newEnd(flag, text string) (end, error) {
	if text == "" {
		return end{}, nil
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		return end{prefix: netip.PrefixFrom(addr, addr.BitLen())}, nil
	}
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return end{prefix: prefix.Masked()}, nil
	}
	if strings.ContainsAny(text, ":") {
		return end{}, usageError(fmt.Errorf("--%s %s: no address, no prefix and no name of a pod", flag, text))
	}
	return end{name: text}, nil
}

// is says whether an end has that name, with or without its namespace, or one
// of the addresses.
func (e end) is(name model.Key, addresses ...netip.Addr) bool {
	if e == (end{}) {
		return true
	}
	if e.name != "" {
		return e.name == name.String() || e.name == name.Name
	}
	return slices.ContainsFunc(addresses, e.prefix.Contains)
}

// parse gives the filter as a function.
func (o *flowFilter) parse() (func(*datapath.FlowPair) bool, error) {
	from, err := newEnd("from", o.from)
	if err != nil {
		return nil, err
	}
	to, err := newEnd("to", o.to)
	if err != nil {
		return nil, err
	}
	protocol, err := parseProtocol(o.protocol)
	if err != nil {
		return nil, err
	}
	return func(f *datapath.FlowPair) bool {
		return from.is(f.Src, f.Tuple.Src) && to.is(f.Dst, f.Tuple.Dst, f.Translated.Dst) &&
			(protocol == model.ProtocolAny || protocol == f.Tuple.Protocol) &&
			(o.service == "" || serviceNamed(f.Service, o.service))
	}, nil
}

func parseProtocol(text string) (model.Protocol, error) {
	for number := range 256 {
		p := model.Protocol(number)
		if text == p.String() || text == fmt.Sprint(number) {
			return p, nil
		}
	}
	if text == "" {
		return model.ProtocolAny, nil
	}
	return 0, usageError(fmt.Errorf("--proto %s: no protocol: tcp, udp, sctp, icmp, icmpv6 or a number", text))
}

func flowListCommand() *cobra.Command {
	var flags tablesFlags
	var filter flowFilter
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List flows, both directions of each on one line",
		Long: `List flows, both directions of each on one line, the most recently used first.

TUPLE is what its opener sends, LEAVES how that goes on where it is translated.
IDLE is exact to a second. POLICY is the rule that let it through; it is empty
where no policy is asked, as for the node's own.`,
		Example: `  weir flow list --from default/client --service default/web
  weir flow list --to 198.51.100.0/24 --proto tcp
  weir flow list -o json | jq -r 'select(.state == "syn-sent") | .tuple.dst'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := filter.parse()
			if err != nil {
				return err
			}
			return flags.view(func(v *datapath.View) error {
				rows, err := flowRows(v, chosen)
				if err != nil {
					return err
				}
				if filter.limit > 0 && len(rows) > filter.limit {
					rows = rows[:filter.limit]
				}
				return vmPrint(flags.vmOutput, cmd.OutOrStdout(), "PROTOCOL\tTUPLE\tLEAVES\tFROM\tTO\tHOOK\tSTATE\tIDLE\tSERVICE\tPOLICY", rows, func(r flowRow) string {
					return r.columns()
				})
			})
		},
	}
	flags.register(cmd)
	filter.register(cmd)
	return cmd
}

func flowRows(v *datapath.View, chosen func(*datapath.FlowPair) bool) ([]flowRow, error) {
	flows, err := v.FlowPairs()
	if err != nil {
		return nil, err
	}
	rows := []flowRow{}
	for i := range flows {
		if chosen(&flows[i]) {
			rows = append(rows, newFlowRow(&flows[i]))
		}
	}
	slices.SortFunc(rows, func(a, b flowRow) int {
		return cmp.Or(cmp.Compare(int(a.Idle), int(b.Idle)), cmp.Compare(a.Protocol, b.Protocol),
			a.Tuple.Src.Compare(b.Tuple.Src), a.Tuple.Dst.Compare(b.Tuple.Dst), cmp.Compare(a.Hook, b.Hook))
	})
	return rows, nil
}
