// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"time"

	"github.com/weirnet/weir/model"
)

// Datapath is a loaded datapath. Its methods may be called by several
// goroutines; Apply and Collect are serialized.
type Datapath struct{}

var errNotYet = errors.New("datapath: being built")

// Open loads the programs and makes or takes over the tables. The calling
// thread's network namespace is the one in which devices are looked up.
func Open(opts Options) (*Datapath, error) { return nil, errNotYet }

// Apply makes the tables equal to state by the smallest change.
func (d *Datapath) Apply(state *model.State) (Change, error) { return Change{}, errNotYet }

// Close leaves a pinned datapath forwarding.
func (d *Datapath) Close() error { return errNotYet }

// Remove detaches and unpins everything, and closes.
func (d *Datapath) Remove() error { return errNotYet }

// Reset empties all tables and counters and sets the clock's offset to 0, as
// if just opened.
func (d *Datapath) Reset() error { return errNotYet }

// Frame is a packet for Run.
type Frame struct {
	Data    []byte // from the Ethernet header on; 14 to 3,712 bytes
	Ifindex int    // the device at whose hook it is
	Mark    uint32
	Repeat  int // how often; 0 is once
}

// Ran is the outcome of Run.
type Ran struct {
	Decision Decision
	Data     []byte // the packet as the program left it
	Mark     uint32
	Duration time.Duration // a round
}

// Run passes a frame through the program of a hook with BPF_PROG_TEST_RUN.
// ErrNotDeliverable when the kernel refuses to carry such a frame.
func (d *Datapath) Run(hook model.Hook, frame Frame) (Ran, error) { return Ran{}, errNotYet }

// ErrNotDeliverable is a frame that the kernel would not give to a program.
var ErrNotDeliverable = errors.New("not deliverable")

// Advance moves the clock's offset forward.
func (d *Datapath) Advance(by time.Duration) error { return errNotYet }

// Collect removes expired flows: it marks those whose time is over, and
// deletes those that were marked a second or more ago by the datapath's clock.
func (d *Datapath) Collect() (Collected, error) { return Collected{}, errNotYet }

// Collected is what a run of the collector did, in flow entries.
type Collected struct{ Seen, Marked, Deleted int }

// Flows reads the flow table.
func (d *Datapath) Flows() ([]Flow, error) { return nil, errNotYet }

// Counters reads the counters that are not 0.
func (d *Datapath) Counters() ([]Counter, error) { return nil, errNotYet }

// Table is a table as text, for people.
type Table struct {
	Name    string
	Entries []string // sorted
}

// Tables reads all tables but flows and counters.
func (d *Datapath) Tables() ([]Table, error) { return nil, errNotYet }

// Event is one record of the event ring.
type Event struct {
	Time     time.Time
	Hook     model.Hook
	Endpoint string
	Decision Decision
	Tuple    model.Tuple
	Length   int
	// Verdict is of a policy verdict: SrcIdentity asked for DstIdentity.
	SrcIdentity, DstIdentity model.Identity
}

// Events gives the events that are there now, without waiting.
func (d *Datapath) Events() ([]Event, error) { return nil, errNotYet }
