// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// Socket is the hook of the node's own sockets: they are led to services before
// there is a packet, so no packet is judged there and Run knows no such hook.
const Socket model.Hook = "socket"

// cgroup is a directory of cgroup2, and the number that the kernel knows it by.
type cgroup struct {
	path string
	id   uint64
}

// cgroupAt looks a cgroup up. Its number is its directory's inode (since 5.5,
// 743210386c03).
func cgroupAt(path string) (cgroup, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return cgroup{}, fmt.Errorf("look at cgroup %s: %w", path, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return cgroup{}, fmt.Errorf("%s is not on a cgroup2: mount one with 'mount -t cgroup2 cgroup2 DIR', and name it or a directory in it", path)
	}
	id, err := inode(path)
	if err != nil {
		return cgroup{}, fmt.Errorf("look at cgroup: %w", err)
	}
	return cgroup{path, id}, nil
}

// again looks it up once more. It stays what it was while there is none.
func (c cgroup) again() (cgroup, error) {
	now, err := cgroupAt(c.path)
	if err != nil {
		return c, err
	}
	return now, nil
}

// attachSockets leads the sockets of the cgroup that is asked for, which may
// have been made anew under its name. What shows the frontend comes first:
// whoever is led sees no backend.
func (a *attachments) attachSockets() (err error) {
	if a.cgroup.path == "" {
		return nil
	}
	if a.cgroup, err = a.cgroup.again(); err != nil {
		return err
	}
	// Loading takes long, and nobody waits for it.
	if _, err := a.programs.get(bpf.SocketProgConnect4); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, attach := range []ebpf.AttachType{
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
		ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
		ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
	} {
		err := a.link(attachPoint{roleSocket, a.cgroup.id, attach}, func(prog *ebpf.Program) (link.Link, error) {
			return link.AttachCgroup(link.CgroupOptions{Path: a.cgroup.path, Attach: attach, Program: prog})
		})
		if err != nil {
			return fmt.Errorf("attach to cgroup %s: %w", a.cgroup.path, err)
		}
	}
	return nil
}

// loadSockets loads the programs for the sockets of the calling thread's network
// namespace, or has those that are loaded be for them.
func (p *programs) loadSockets() error {
	cookie, err := netnsCookie(p.cgroup, p.socket)
	if err != nil {
		return err
	}
	if err := p.addSockets(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.netns.Set(cookie); err != nil {
		return fmt.Errorf("set %s: %w", bpf.SocketVarNodeNetns, err)
	}
	p.placed = true
	return nil
}

// needSockets loads the programs of sockets, of whichever namespace, where they are not.
func (p *programs) needSockets() error {
	p.loading.Lock()
	defer p.loading.Unlock()
	return p.addSockets()
}

// addSockets is called by who loads programs.
func (p *programs) addSockets() error {
	if p.netns != nil {
		return nil
	}
	if err := p.add(p.objects.socket); err != nil {
		return fmt.Errorf("load the programs of sockets: %w", err)
	}
	return nil
}

// leaveNamespace has the programs of sockets be of no namespace: another is to come.
func (p *programs) leaveNamespace() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.placed = false
}

// hasSockets says whether the programs of sockets are loaded, and know their namespace.
func (p *programs) hasSockets() bool {
	return p.has(bpf.SocketProgConnect4)
}

// netnsCookie is the number of the calling thread's network namespace. create makes
// a socket of the cgroup; nil: this process is in the cgroup, or below one above.
func netnsCookie(path string, create func(family, kind, protocol int) (int, error)) (uint64, error) {
	if create == nil {
		create = unix.Socket
	}
	fd, err := create(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("ask for the number of the network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		cookie, err = netnsCookieByProgram(fd, path)
	}
	if err != nil {
		return 0, fmt.Errorf("ask for the number of the network namespace: %w", err)
	}
	return cookie, nil
}

// netnsCookieByProgram asks a program, since SO_NETNS_COOKIE is of 5.14
// (e8b9eab99232). It runs only for sockets of the cgroup that it is attached
// to: where this one is not of it, it may be of one above.
func netnsCookieByProgram(fd int, path string) (uint64, error) {
	if cookie, err := netnsCookieIn(path, fd); err != nil || cookie != 0 {
		return cookie, err
	}
	above, err := filepath.EvalSymlinks(path)
	if err != nil {
		return 0, err
	}
	for {
		if _, err := cgroupAt(above); err != nil {
			return 0, fmt.Errorf("%w: kernels before 5.14 tell it only to a process of the cgroup: run Weir in %s or below it, or name one above", ErrKernel, path)
		}
		cookie, err := netnsCookieIn(above, fd)
		if err != nil || cookie != 0 {
			return cookie, err
		}
		above = filepath.Dir(above)
	}
}

// netnsCookieIn lets a program of a cgroup tell the namespace of fd, a UDP
// socket; 0: it has not run.
func netnsCookieIn(path string, fd int) (uint64, error) {
	socket, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return 0, err
	}
	answer, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return 0, err
	}
	defer answer.Close()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect,
		Instructions: tellNetnsCookie(socket, answer.FD()), License: "Dual BSD/GPL",
	})
	if err != nil {
		return 0, err
	}
	defer prog.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: path, Attach: ebpf.AttachCGroupInet4Connect, Program: prog})
	if err != nil {
		return 0, err
	}
	// Nothing is sent, and a namespace without a route to itself will do: the
	// program has run before the kernel looks for one.
	_ = unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}})
	if err := l.Close(); err != nil {
		return 0, err
	}
	zero, cookie := uint32(0), uint64(0)
	err = answer.Lookup(&zero, &cookie)
	return cookie, err
}

// tellNetnsCookie writes the namespace of a socket that connects to a map.
func tellNetnsCookie(socket uint64, answer int) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.FnGetSocketCookie.Call(),
		asm.LoadImm(asm.R1, int64(socket), asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R1, "end"),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetNetnsCookie.Call(),
		asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
		asm.StoreImm(asm.RFP, -12, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, answer),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -12),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, -8),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnMapUpdateElem.Call(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("end"),
		asm.Return(),
	}
}

// withLoopback adds the frontends at loopback addresses, those of node ports
// where the options ask for them. Only sockets know these: no packet with such
// an address leaves or comes.
func (d *Datapath) withLoopback(state *model.State) *model.State {
	if d.attached.cgroup.path == "" || len(state.Loopback) == 0 && !d.opts.LoopbackNodePorts {
		return state
	}
	type port struct {
		at       netip.AddrPort
		protocol model.Protocol
	}
	more := *state
	loopback := slices.Clone(state.Loopback)
	if !d.opts.LoopbackNodePorts {
		more.Services = state.Services.With(loopback...)
		return &more
	}
	have := map[port]bool{}
	for _, s := range state.Loopback {
		have[port{netip.AddrPortFrom(s.Address, s.Port), s.Protocol}] = true
	}
	for nodePort := range state.Services.All() {
		s := *nodePort
		if s.Kind != model.KindNodePort || s.Scope != model.ScopeInside {
			continue
		}
		if s.Address.Is4() {
			s.Address = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		} else {
			s.Address = netip.IPv6Loopback()
		}
		key := port{netip.AddrPortFrom(s.Address, s.Port), s.Protocol}
		if !have[key] { // one of the node's addresses was first
			have[key] = true
			loopback = append(loopback, s)
		}
	}
	more.Services = state.Services.With(loopback...)
	return &more
}
