// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// The types of the tables, as the C source has them.
type (
	tableAddr    = bpf.ContainerAddr
	nodeHalf     = bpf.ContainerNode
	endpointHalf = bpf.ContainerEndpoint
	ipcacheHalf  = bpf.ContainerIpcacheEntry
	tunnelHalf   = bpf.ContainerTunnelEndpoint
	cidrKey      = bpf.ContainerCidrKey
	serviceKey   = bpf.ContainerServiceKey
	serviceHalf  = bpf.ContainerService
	slotRowKey   = bpf.ContainerSlotRowKey
	slotRow      = bpf.ContainerSlotRow
	slotValue    = bpf.ContainerSlot
	sourceKey    = bpf.ContainerSourceKey
	affinityKey  = bpf.ContainerAffinityKey
	affinity     = bpf.ContainerAffinity
	peerKey      = bpf.ContainerPeerKey
	peerValue    = bpf.ContainerPeer
	backendKey   = bpf.ContainerBackendKey
	backendHalf  = bpf.ContainerBackend
	ruleKey      = bpf.ContainerRuleKey
	ruleValue    = bpf.ContainerRule
	flowKey      = bpf.ContainerFlowKey
	flowValue    = bpf.ContainerFlow
	fragmentKey  = bpf.ContainerFragmentKey
	shareKey     = bpf.ContainerShareKey
	settings     = bpf.ContainerSettings
)

// encodeAddr gives an address as the tables hold it: 16 bytes in network
// order, IPv4 as ::ffff:a.b.c.d, and all zero for the zero Addr.
func encodeAddr(a netip.Addr) tableAddr {
	if !a.IsValid() {
		return tableAddr{}
	}
	return fromBytes(a.As16())
}

func fromBytes(b [16]byte) tableAddr {
	return tableAddr{W: *(*[4]uint32)(unsafe.Pointer(&b))}
}

func toBytes(t tableAddr) [16]byte { return *(*[16]byte)(unsafe.Pointer(&t.W)) }

func decodeAddr(t tableAddr) netip.Addr {
	if t == (tableAddr{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(toBytes(t)).Unmap()
}

// encodePort gives a port in network order.
func encodePort(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

func decodePort(p uint16) uint16 { return encodePort(p) }

func decodeNumber(n uint32) uint32 {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], n)
	return binary.BigEndian.Uint32(b[:])
}

func encodePrefix(p netip.Prefix) cidrKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return cidrKey{Bits: uint32(bits), Addr: encodeAddr(p.Addr())}
}

func encodeServiceKey(s *model.Service) serviceKey {
	return serviceKey{
		Addr: encodeAddr(s.Address), Port: encodePort(s.Port),
		Proto: uint8(s.Protocol), Scope: uint8(s.Scope),
	}
}

// encodeRuleKey leaves out port bits, then the port, then the protocol.
func encodeRuleKey(set uint32, r *model.Rule) ruleKey {
	key := ruleKey{Bits: ruleBits(r), Set: set, Peer: uint32(r.Peer), Direction: uint8(r.Direction)}
	if r.Protocol == model.ProtocolAny {
		return key
	}
	key.Proto = uint8(r.Protocol)
	key.Port = encodePort(maskPort(r.Port, r.PortBits))
	return key
}

const (
	ruleBitsAnyProtocol = 32 + 32 + 8
	ruleBitsAnyPort     = ruleBitsAnyProtocol + 8
)

func ruleBits(r *model.Rule) uint32 {
	if r.Protocol == model.ProtocolAny {
		return ruleBitsAnyProtocol
	}
	return ruleBitsAnyPort + uint32(r.PortBits)
}

func maskPort(port uint16, bits uint8) uint16 {
	return port &^ (1<<(16-bits) - 1)
}

func decodeTuple(k *flowKey) model.Tuple {
	t := model.Tuple{
		Src: decodeAddr(k.Src), Dst: decodeAddr(k.Dst),
		Sport: decodePort(k.Sport), Dport: decodePort(k.Dport),
		Protocol: model.Protocol(k.Proto),
	}
	// An IPv6 packet has the addresses that it has: nobody's, or IPv4-mapped ones,
	// which are no IPv4.
	if k.Family == uint8(bpf.ContainerFamilyFAMILY_IPV6) {
		t.Src, t.Dst = decodeAddr16(k.Src), decodeAddr16(k.Dst)
	}
	return t
}
