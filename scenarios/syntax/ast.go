// SPDX-License-Identifier: Apache-2.0

// Package syntax reads scenario files: one text file each, a script and
// behind it the files that it needs.
//
// It finds every mistake that can be found without a network, and resolves
// nothing: names stay names until a scenario runs in a world and a family.
// Its one invariant is that a File that Parse gives without an error has no
// verb, field or name that the engine does not know.
package syntax

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/weirnet/weir/model"
)

// Pos is a place in a scenario file.
type Pos struct {
	File string
	Line int // from 1
}

func (p Pos) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// File is one scenario.
type File struct {
	Name        string // the file's name without folder and suffix
	Path        string
	Description string // the comment that it begins with
	Source      string // the whole file, for people

	Worlds   []World
	Families []Family
	Needs    []Need

	Nodes      []Node // the first is always "node"
	Pods       []Pod
	Namespaces []Namespace
	Outside    []string
	Named      []Named  // addresses that no host has at first
	Silent     []string // hosts whose stacks answer nothing
	Without    []string // features that the datapath is not to use

	Uplinks bool          // the nodes' own devices have programs
	Second  []string      // outside hosts that second uplinks of the nodes lead to
	Sockets bool          // the nodes' own sockets have programs
	Options model.Options // the operator's
	// SmallShares gives each pod a few entries of the tables that make room by
	// themselves.
	SmallShares bool
	Routes      []Route // of the router, besides

	Steps []Step
	Files map[string]Attached
}

// World is a kind of world.
type World string

// Worlds.
const (
	Prog    World = "prog"
	Netns   World = "netns"
	Cluster World = "cluster"
)

// Worlds are all of them, the fastest first.
func Worlds() []World { return []World{Prog, Netns, Cluster} }

// Family is an IP family.
type Family string

// Families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// V6 says whether it is IPv6.
func (f Family) V6() bool { return f == IPv6 }

// Need is what a scenario cannot run without.
type Need struct {
	Pos    Pos
	Kernel string // the oldest release, or ""
	Config string // an option of the kernel's configuration without CONFIG_, or ""
}

// FirstNode is the name of the node that every scenario has.
const FirstNode = "node"

// Node is a node with labels.
type Node struct {
	Pos    Pos
	Name   string
	Labels map[string]string
}

// Named is an address, at most one of each family, by a name.
type Named struct {
	Pos       Pos
	Name      string
	Addresses []netip.Addr
}

// Route leads what is sent to an address to a node. Routes to one address share
// what is sent there.
type Route struct {
	Pos  Pos
	To   string // an address, its name, or that of a load balancer's
	Node string
}

// Pod is a pod of a node.
type Pod struct {
	Pos             Pos
	Namespace, Name string
	Node            string
	Labels          map[string]string
	Ports           []ContainerPort
}

// ContainerPort is a port with a name.
type ContainerPort struct {
	Name     string
	Port     uint16
	Protocol model.Protocol
}

// Namespace is a namespace with labels.
type Namespace struct {
	Pos    Pos
	Name   string
	Labels map[string]string
}

// Attached is a file behind the script.
type Attached struct {
	Line int // of its first line of content in the scenario file
	Data []byte
}

// Step is one line of the script.
type Step struct {
	Pos  Pos
	Text string // as it is written
	// Only is the family that it is for; empty for all.
	Only Family
	// Eventually repeats the step until it holds or its time is over.
	Eventually bool
	Verb       Verb
}

// Verb is what a step does: one of the types below.
type Verb interface{ verb() }

type (
	// Apply makes objects, or changes those that are there.
	Apply struct{ Files []string }
	// Update changes objects that must be there.
	Update struct{ Files []string }
	// Delete removes objects.
	Delete struct{ Objects []Object }
	// Label sets and removes labels of a pod or namespace.
	Label struct {
		Object Object
		Set    map[string]string
		Remove []string
	}
	// Terminate marks a pod as being deleted.
	Terminate struct{ Pod Object }
	// Renew gives a pod another interface.
	Renew struct{ Pod Object }

	// Give has nodes have addresses beside their own.
	Give struct{ Addresses, Nodes []string }
	// Take takes addresses away that were given.
	Take struct{ Addresses, Nodes []string }
	// Lead has the router lead addresses elsewhere.
	Lead struct{ Addresses, Nodes []string }

	// Listen makes a host serve a port. Without Answer it sends back what it got.
	Listen struct {
		Host     string
		Protocol model.Protocol
		Port     uint16
		Answer   *string
	}
	// Connect opens an exchange. Without As it also sends a message, expects
	// an answer and closes.
	Connect struct {
		From  string
		To    Target
		Sport uint16 // 0: any
		As    string
		Via   string // the host that must serve it
		Seen  string // whose address the server must see; empty: not checked
		Says  *string
		Hears *string
		Fails Failure
		// Unconnected is a UDP socket that is told the address with each message.
		Unconnected bool
		// Mapped is an IPv6 socket that speaks IPv4.
		Mapped bool
	}
	// Say sends a message on an open exchange and expects an answer.
	Say struct {
		Conn  string
		Text  string
		Hears *string
		Fails Failure
	}
	// Close ends an exchange.
	Close struct{ Conn string }
	// Ping sends an echo request and expects the reply.
	Ping struct {
		From, To string
		Fails    Failure
	}

	// Send puts a frame on a host's interface.
	Send struct {
		Host   string
		Sender string // whom it poses as; empty: nobody
		Layers []Layer
	}
	// Expect waits for a frame at a host. With Nothing, none that matches may come.
	Expect struct {
		Host    string
		Nothing bool
		Layers  []Layer
	}
	// Verdict checks what the datapath decided about the last frame sent.
	Verdict struct {
		Action model.Action
		Fields []Assignment
	}
	// FlowCheck looks for an entry of the flow table.
	FlowCheck struct {
		Absent bool
		From   string
		To     Target
		Sport  uint16
		Via    string
		Fields []Assignment
	}
	// Dropped waits for packets dropped or answered for a reason since this
	// verb last looked at that reason. Times 0: at least one.
	Dropped struct {
		Reason model.Reason
		Times  int
	}
	// Counter checks a counter of the whole scenario.
	Counter struct {
		Name  string // a reason, or "forwarded"
		Hook  model.Hook
		Count uint64
		Node  string // empty: all together
	}
	// TableCheck looks for text in a table's entries.
	TableCheck struct {
		Table string
		Node  string
		Lacks bool
		Text  string
	}
	// Uses checks whether the datapath uses a feature of the kernel.
	Uses struct {
		Feature    string
		Not        bool     // on no kernel
		From       string   // the oldest release that has it, or "": all
		Backported []string // older releases to which it was added since
	}
	// Advance moves the datapath's clock.
	Advance struct{ By time.Duration }
	// Collect runs the collector of flows that are over.
	Collect struct{}
)

func (*Apply) verb()      {}
func (*Update) verb()     {}
func (*Delete) verb()     {}
func (*Label) verb()      {}
func (*Terminate) verb()  {}
func (*Renew) verb()      {}
func (*Give) verb()       {}
func (*Take) verb()       {}
func (*Lead) verb()       {}
func (*Listen) verb()     {}
func (*Connect) verb()    {}
func (*Say) verb()        {}
func (*Close) verb()      {}
func (*Ping) verb()       {}
func (*Send) verb()       {}
func (*Expect) verb()     {}
func (*Verdict) verb()    {}
func (*FlowCheck) verb()  {}
func (*Dropped) verb()    {}
func (*Counter) verb()    {}
func (*TableCheck) verb() {}
func (*Uses) verb()       {}
func (*Advance) verb()    {}
func (*Collect) verb()    {}

// Failure is how an exchange must fail; empty: it must not.
type Failure string

// Failures.
const (
	Refused Failure = "refused"
	Timeout Failure = "timeout"
	Reset   Failure = "reset"
)

// Object names a Kubernetes object.
type Object struct {
	Kind            string // in lower case, as kubectl takes it
	Namespace, Name string
}

func (o Object) String() string {
	if o.Namespace == "" {
		return o.Kind + "/" + o.Name
	}
	return o.Kind + "/" + o.Namespace + "/" + o.Name
}

// Target is what is connected to: a host, NAME.NAMESPACE of a service,
// lb(NAME.NAMESPACE) of its load balancer, or an address.
type Target struct {
	Protocol model.Protocol
	Name     string
	Port     uint16
}

func (t Target) String() string { return fmt.Sprintf("%s/%s:%d", t.Protocol, t.Name, t.Port) }

// Assignment is name=value.
type Assignment struct{ Name, Value string }

// Layer is a described layer, its names not yet looked up.
type Layer struct {
	Kind   string
	Fields []Assignment
}
