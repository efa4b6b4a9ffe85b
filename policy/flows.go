// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/pcap"
)

// Cut is a recorded flow that was allowed and would not be any more.
type Cut struct {
	From     netip.AddrPort `json:"from"`
	To       netip.AddrPort `json:"to"`
	Backend  netip.AddrPort `json:"backend,omitzero"` // where To is a service's
	Protocol string         `json:"protocol"`
	Because  string         `json:"because"`
}

func (c Cut) String() string {
	to := c.To.String()
	if c.Backend.IsValid() {
		to += " by backend " + c.Backend.String()
	}
	return fmt.Sprintf("cut: %s %s to %s: %s", c.Protocol, c.From, to, c.Because)
}

// CutFlows gives those of recorded flows that a change would cut. A flow to a
// service is asked of each backend.
func CutFlows(before, after *Side, flows []model.Tuple) ([]Cut, error) {
	frontends := frontendsOf(before.objs)
	var cut []Cut
	for _, t := range flows {
		targets := frontends[frontendAt{netip.AddrPortFrom(t.Dst, t.Dport), t.Protocol}]
		throughService := len(targets) > 0
		if !throughService {
			targets = []netip.AddrPort{netip.AddrPortFrom(t.Dst, t.Dport)}
		}
		for _, target := range targets {
			was, err := before.explainer.Explain(t.Src.String(), target.Addr().String(), target.Port(), t.Protocol)
			if err != nil {
				return nil, err
			}
			is, err := after.explainer.Explain(t.Src.String(), target.Addr().String(), target.Port(), t.Protocol)
			if err != nil {
				return nil, err
			}
			if !was.Allowed || is.Allowed {
				continue
			}
			c := Cut{From: netip.AddrPortFrom(t.Src, t.Sport), To: netip.AddrPortFrom(t.Dst, t.Dport), Protocol: t.Protocol.String(), Because: because(&was, &is)}
			if throughService {
				c.Backend = target
			}
			cut = append(cut, c)
		}
	}
	return cut, nil
}

type frontendAt struct {
	netip.AddrPort
	protocol model.Protocol
}

// frontendsOf are the addresses of services, with their backends.
func frontendsOf(objs *manifest.Objects) map[frontendAt][]netip.AddrPort {
	found := map[frontendAt][]netip.AddrPort{}
	_, state, err := onOneNode(manifest.DeriveEndpointSlices(objs))
	if err != nil {
		return found // services say nothing where they are wrong; policies were right
	}
	for svc := range state.Services.All() {
		at := frontendAt{netip.AddrPortFrom(svc.Address, svc.Port), svc.Protocol}
		for _, b := range svc.Backends {
			found[at] = append(found[at], netip.AddrPortFrom(b.Address, b.Port))
		}
	}
	return found
}

// ReadFlows gives every flow of a file once, as it was opened. The file is a
// capture (pcap or pcapng), or what weir flow list -o json has printed.
func ReadFlows(ctx context.Context, path string) ([]model.Tuple, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read flows: %w", err)
	}
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') {
		return flowsOfJSON(path, trimmed)
	}
	return flowsOfCapture(ctx, path, data)
}

// listedFlow is what is read of a flow that weir flow list has printed.
type listedFlow struct {
	Protocol   string
	Tuple      struct{ Src, Dst netip.AddrPort }
	Translated struct{ Src, Dst netip.AddrPort }
}

// flowsOfJSON reads objects that follow each other, or one list of them.
func flowsOfJSON(path string, data []byte) ([]model.Tuple, error) {
	var rows []listedFlow
	decoder := json.NewDecoder(bytes.NewReader(data))
	for {
		var one json.RawMessage
		err := decoder.Decode(&one)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && one[0] == '[' {
			err = json.Unmarshal(one, &rows)
		} else if err == nil {
			var row listedFlow
			err = json.Unmarshal(one, &row)
			rows = append(rows, row)
		}
		if err != nil {
			return nil, fmt.Errorf("read flows: %s: %w: give what 'weir flow list -o json' prints", path, err)
		}
	}
	protocols := map[string]model.Protocol{"tcp": model.ProtocolTCP, "udp": model.ProtocolUDP, "sctp": model.ProtocolSCTP, "icmp": model.ProtocolICMP, "icmpv6": model.ProtocolICMPv6}
	var flows []model.Tuple
	for i, row := range rows {
		protocol, known := protocols[row.Protocol]
		if !known || !row.Tuple.Src.IsValid() || !row.Tuple.Dst.IsValid() {
			return nil, fmt.Errorf("read flows: %s: flow %d needs protocol (tcp, udp, sctp, icmp, icmpv6) and tuple with src and dst", path, i+1)
		}
		to := row.Tuple.Dst
		if row.Translated.Dst.IsValid() {
			to = row.Translated.Dst
		}
		flows = append(flows, model.Tuple{Src: row.Tuple.Src.Addr(), Sport: row.Tuple.Src.Port(), Dst: to.Addr(), Dport: to.Port(), Protocol: protocol})
	}
	return flows, nil
}

// flowsOfCapture takes the first packet of a flow for the one that opens it,
// but for an answer to a SYN that the capture has missed.
func flowsOfCapture(ctx context.Context, path string, data []byte) ([]model.Tuple, error) {
	r, err := pcap.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read flows: %s: %w", path, err)
	}
	seen := map[model.Tuple]bool{}
	var flows []model.Tuple
	var buf []byte
	for {
		var p pcap.Packet
		err := r.Next(&p)
		if errors.Is(err, io.EOF) {
			return flows, nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return nil, fmt.Errorf("read flows: %s: %w", path, err)
		}
		data, _, err := r.Interface(p.Interface).Link.Frame(buf, p.Data)
		if err != nil {
			continue // no Ethernet or IP in it: no flow
		}
		packet := frame.Decode(data)
		t, ok := packet.Tuple()
		if _, quotes := packet.Quoted(); !ok || quotes || seen[t] || seen[t.Reversed()] {
			continue
		}
		const syn, ack = 0x02, 0x10
		const flags = 13 // the octet of a TCP header
		if l4 := packet.Transport(); t.Protocol == model.ProtocolTCP && len(l4) > flags && l4[flags]&(syn|ack) == syn|ack {
			t = t.Reversed()
		}
		seen[t] = true
		flows = append(flows, t)
	}
}
