// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"time"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/model"
)

// Options say how a Datapath is opened.
type Options struct {
	// PinPath is a directory on a bpffs that keeps tables and links when the
	// process ends. Empty: nothing is pinned, everything goes with Close.
	PinPath string
	// Attach makes Apply attach the programs to endpoints' devices. Without
	// it they only run by Run.
	Attach bool
	// Cgroup is the path of a cgroup2 directory. With Attach, the sockets of its
	// processes, and of those below it, reach services from the node's network
	// namespace: mostly the root of the hierarchy. Empty: none.
	Cgroup string
	// CgroupSocket makes a socket in this cgroup and the calling thread's network
	// namespace, where this process is in another cgroup: kernels before 5.14
	// tell the number of a namespace only to a socket that has programs. Nil: it
	// is in the cgroup or below it, or may ask by one above.
	CgroupSocket func(family, kind, protocol int) (fd int, err error)
	// LoopbackNodePorts lets these sockets reach node ports at 127.0.0.1 and ::1
	// too.
	LoopbackNodePorts bool
	// Room is that of tables, in entries, by their names in bpf/lib/tables.h;
	// absent: the default of bpf/lib/limits.h. An Apply has the old state and the
	// new one in the tables for a moment, so that what may be replaced whole needs
	// room twice.
	Room map[string]uint32
	// KeepRoom leaves tables that are pinned the room that they have, whatever is
	// said here: to take all of it away, mostly.
	KeepRoom bool
	// Services is the room for frontends; 0: the default of bpf/lib/limits.h.
	Services uint32
	// Flows is the room for answered flows, in entries (two a flow);
	// Unanswered for those not yet answered. 0: the default of bpf/lib/limits.h.
	Flows, Unanswered uint32
	// Lifetimes are how long flows may be idle; nil: the defaults.
	Lifetimes model.Lifetimes
	// Refusals bounds how many resets and ICMP errors each endpoint's packets get in a
	// second, and the uplinks' together, from each hook; what is more is dropped without
	// an answer. 0: model.DefaultRefusals; at most that.
	Refusals uint32
	// Seed is of every choice that a program makes: equal seeds, equal choices.
	Seed uint32
	// EventsPerSecond bounds the events that a CPU tells. 0: 1,000.
	EventsPerSecond uint32
	// TraceAll tells an event for every packet instead of one for every new
	// flow. It is bounded by EventsPerSecond too.
	TraceAll bool
	// StopClock makes the datapath's clock stand still but for Advance, so that
	// a run does not depend on how long it takes: for Run and Runner, without
	// PinPath and Attach.
	StopClock bool
	// Step is called before every step of Open and Apply that others can see
	// the outcome of. Tests kill the process there. Nil outside of tests.
	Step func(step string)
	// ForceClsact attaches by clsact where the kernel has tcx, to cover what
	// kernels before 6.6 do.
	ForceClsact bool
	// Without are features that the kernel may have and the datapath is not to
	// use, to cover what it does on kernels without them.
	Without []string
	// Object is an ELF file of container programs, HostObject one of host
	// programs, SocketObject one of sockets' programs, to load in place of the embedded ones, as another revision of
	// bpf/ builds them. Their tables must have the layout of this one. Nil: the
	// embedded ones.
	Object, HostObject, SocketObject []byte
	// Edit changes the programs of an object before they are loaded, when
	// constants and sizes are set: to count what they run, or to plant an error.
	// It is called once for each object, whenever it is read; an error of it is
	// one of Open. Nil: they are loaded as they are.
	Edit func(*ebpf.CollectionSpec) error
	// Stats keeps what the verifier tells of each program, for Costs.
	Stats bool
}

const (
	defaultEventsPerSecond = 1000
	// settle is how long the half that packets do not read any more is left
	// alone: a packet that read the old epoch has long gone by then.
	settle = 10 * time.Millisecond
	// linger is how long an entry is marked dead before it is deleted.
	linger = time.Second
)
