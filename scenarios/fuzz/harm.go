// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// harm gives what no program may do to a frame, whatever it decides: repair or
// break a checksum, or change what is not its to change. Empty: nothing.
func harm(s lab.Step, to model.Device, tunnel model.Tunnel) string {
	switch {
	case s.Decision.Action == model.Reply && s.Decision.Reason == model.ReasonTooBig:
		return harmTooBig(s, tunnel)
	case s.Decision.Action != model.Forward:
		return ""
	case s.Decision.Out == model.OutTunnel:
		return strings.Join(frame.Tunnelled(s.In, s.Out), "; ")
	}
	if s.Hook == model.FromDevice && len(s.In) != len(s.Out) {
		if inside := frame.Decode(s.In).TakenOut(); len(inside) == len(s.Out) {
			s.In = inside
		}
	}
	return harmForwarded(s, to)
}

// harmTooBig checks what a node says of its tunnel: what a link carries, less
// the tunnel's headers.
func harmTooBig(s lab.Step, tunnel model.Tunnel) string {
	p := frame.Decode(s.Out)
	room := linkMTU - 20
	if p.Version == 6 {
		room = linkMTU - 40
	}
	if tunnel == model.TunnelGeneve {
		room -= 8 + 8
	}
	if said := int(p.SaidMTU()); said != room {
		return fmt.Sprintf("the answer says that %d octets fit into the tunnel, of %d", said, room)
	}
	return ""
}

// harmForwarded puts what a translation may change into a copy of the frame
// as it was, and compares all of it.
func harmForwarded(s lab.Step, to model.Device) string {
	if len(s.In) != len(s.Out) {
		return fmt.Sprintf("a frame of %d octets left with %d", len(s.In), len(s.Out))
	}
	if problem := harmUntranslated(s); problem != "" {
		return problem
	}
	want := s.In
	if !bytes.Equal(s.In, s.Out) {
		want = bytes.Clone(s.In)
	}
	if s.Hook != model.ToContainer && s.Decision.Out == model.OutLocal {
		copy(want, to.PodMAC)
		copy(want[6:], to.MAC)
	}
	before, after := frame.Decode(s.In), frame.Decode(s.Out)
	if before.Version != 0 && after.Version == before.Version {
		if problem := harmChecksums(before, after); problem != "" {
			return problem
		}
		exempt(before, s.Out, want)
	}
	if i := different(want, s.Out); i >= 0 {
		return fmt.Sprintf("octet %d of the frame was %#02x, which a program may not change here, and left as %#02x", i, s.In[i], s.Out[i])
	}
	return ""
}

// harmUntranslated checks that what leaves an uplink's hook for the node's
// stack, or goes on by itself, under the tuple that it had, is the same to the
// last octet.
func harmUntranslated(s lab.Step) string {
	atDevice := s.Hook == model.FromDevice && s.Decision.Out == model.OutHost || s.Hook == model.ToDevice && s.Decision.Out == model.OutDevice
	if !atDevice || bytes.Equal(s.In, s.Out) {
		return ""
	}
	before, after := frame.Decode(s.In), frame.Decode(s.Out)
	was, read := before.Tuple()
	is, _ := after.Tuple()
	_, quotes := before.Quoted()
	if read && !quotes && was == is && before.Fragment == after.Fragment && !before.Fragment {
		return "the frame was changed, though not translated"
	}
	return ""
}

func different(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

func harmChecksums(before, after *frame.Packet) string {
	was, is := before.Checksums(), after.Checksums()
	if was.IP != is.IP {
		return fmt.Sprintf("the IPv4 header's checksum was %s and left %s", was.IP, is.IP)
	}
	if was.Transport != is.Transport {
		return fmt.Sprintf("the transport checksum was %s and left %s", was.Transport, is.Transport)
	}
	if was.Quoted != is.Quoted {
		return fmt.Sprintf("the checksum of the IPv4 header that is quoted was %s and left %s", was.Quoted, is.Quoted)
	}
	sum, is1 := before.Residue()
	if left, is2 := after.Residue(); sum != left || is1 != is2 {
		return "the first fragment's checksum does not make up for what was translated"
	}
	return ""
}

// exempt copies into want what a translation may change: addresses, ports,
// time to live, checksums. The model and harmChecksums compare those.
func exempt(p *frame.Packet, got, want []byte) {
	part := func(from, to int) {
		if to <= len(want) {
			copy(want[from:to], got[from:to])
		}
	}
	if p.Version == 4 {
		part(p.L3+8, p.L3+9)
		part(p.L3+10, p.L3+20)
	} else {
		part(p.L3+7, p.L3+40)
	}
	if p.L4 < 0 {
		return
	}
	if q, ok := p.Quoted(); ok {
		part(p.L4+2, p.L4+4)
		exemptQuote(p, q, part)
		return
	}
	switch proto := model.Protocol(p.Proto); {
	case proto == model.ProtocolTCP:
		part(p.L4, p.L4+4)
		part(p.L4+16, p.L4+18)
	case proto == model.ProtocolUDP:
		part(p.L4, p.L4+4)
		if b := p.Transport(); len(b) >= 8 && binary.BigEndian.Uint16(b[6:]) != 0 { // none stays none
			part(p.L4+6, p.L4+8)
		}
	case proto == model.ProtocolSCTP:
		part(p.L4, p.L4+4)
	case proto == model.ProtocolICMP && p.Version == 4:
		exemptEcho(p, 8, 0, part)
	case proto == model.ProtocolICMPv6 && p.Version == 6: // covers the addresses
		part(p.L4+2, p.L4+4)
		exemptEcho(p, 128, 129, part)
	}
}

// exemptEcho exempts an echo's identifier, which is translated like a port.
func exemptEcho(p *frame.Packet, request, reply byte, part func(from, to int)) {
	if b := p.Transport(); len(b) >= 8 && (b[0] == request || b[0] == reply) && b[1] == 0 {
		part(p.L4+2, p.L4+6)
	}
}

// exemptQuote exempts the tuple of a quoted packet. Its transport checksum
// stays: nobody can judge it.
func exemptQuote(p, q *frame.Packet, part func(from, to int)) {
	if q.Version == 4 {
		part(q.L3+10, q.L3+20)
	} else {
		part(q.L3+8, q.L3+40)
	}
	switch proto := model.Protocol(q.Proto); {
	case q.L4 < 0:
	case proto == model.ProtocolICMP, proto == model.ProtocolICMPv6:
		part(q.L4+4, q.L4+6) // an echo's identifier
	default:
		part(q.L4, q.L4+4)
	}
}
