// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
)

// endDatagrams ends the node's connected datagram sockets whose backend is gone,
// so that their processes connect anew: nothing else would tell them, since
// the kernel asks no program where a connected socket's datagrams go. TCP learns
// it from its peer.
//
// Where the kernel cannot end sockets (CONFIG_INET_DIAG_DESTROY) they stay. It asks
// the kernel and no mirror, so that nobody waits for it.
func (d *Datapath) endDatagrams() error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagUDP(family)
		if cannotEnd(err) {
			return nil
		}
		// What an interrupted list lacks has just come, and knows the new state.
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list datagram sockets: %w: all of the state is in force", err)
		}
		for _, s := range sockets {
			lost, err := d.lostBackend(&s.ID)
			if err != nil {
				return err
			}
			if !lost {
				continue
			}
			if err := endSocket(family, &s.ID); err != nil && !errors.Is(err, unix.ENOENT) && !cannotEnd(err) {
				return fmt.Errorf("end the socket with local port %d, whose backend is gone: %w: all of the state is in force", s.ID.SourcePort, err)
			}
		}
	}
	return nil
}

func cannotEnd(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT)
}

// backendsGone says whether the state in force lacks a backend of the last one. It is
// called with applying held.
func (d *Datapath) backendsGone() bool {
	half := d.half()
	for key := range d.backends.uneven.all() { // a half that lacks one differs
		pair := d.backends.have[key]
		if pair[half].State == 0 && pair[1-half].State != 0 {
			return true
		}
	}
	return false
}

// lostBackend says whether a socket is connected to what a service led it to,
// and does not have any more.
func (d *Datapath) lostBackend(id *netlink.SocketID) (bool, error) {
	to, ok := netip.AddrFromSlice(id.Destination)
	if !ok || id.DestinationPort == 0 {
		return false, nil
	}
	key := peerKey{
		Socket: uint64(id.Cookie[1])<<32 | uint64(id.Cookie[0]),
		Addr:   encodeAddr(to), Port: encodePort(id.DestinationPort),
	}
	var shown peerValue
	err := d.maps[bpf.ContainerMapPeers].Lookup(&key, &shown)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read table peers: %w", err)
	}
	backend := backendKey{Service: shown.Service, Addr: key.Addr, Port: key.Port}
	var pair [2]backendHalf
	err = d.maps[bpf.ContainerMapBackends].Lookup(&backend, &pair)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, fmt.Errorf("read table backends: %w", err)
	}
	return pair[d.half()].State == 0, nil
}

// endSocket lets all calls on a socket fail with ECONNABORTED, once. Its cookie
// keeps another of the same addresses from being meant.
func endSocket(family uint8, id *netlink.SocketID) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddRawData(diagRequest(family, id))
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}

// diagRequest is a struct inet_diag_req_v2 of linux/inet_diag.h.
func diagRequest(family uint8, id *netlink.SocketID) []byte {
	const size, ports, source, destination, device, cookie = 56, 8, 12, 28, 44, 48
	b := make([]byte, size)
	b[0], b[1] = family, unix.IPPROTO_UDP
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0)) // whatever its state
	binary.BigEndian.PutUint16(b[ports:], id.SourcePort)
	binary.BigEndian.PutUint16(b[ports+2:], id.DestinationPort)
	from, to := id.Source, id.Destination
	if family == unix.AF_INET {
		from, to = from.To4(), to.To4()
	}
	copy(b[source:], from)
	copy(b[destination:], to)
	binary.NativeEndian.PutUint32(b[device:], id.Interface)
	binary.NativeEndian.PutUint32(b[cookie:], id.Cookie[0])
	binary.NativeEndian.PutUint32(b[cookie+4:], id.Cookie[1])
	return b
}
