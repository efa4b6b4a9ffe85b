// SPDX-License-Identifier: Apache-2.0

// Package prog is the world in which the datapath's programs meet crafted
// frames: a network in miniature, without one packet on a wire.
//
// It carries each frame from hook to hook by the decision that the program
// left, until a host has it or nobody. Its hosts have stacks of a few hundred
// lines: enough for a handshake, a datagram, a ping. It proves nothing about
// sockets, offloads or the kernel's forwarding; that is what world netns is
// for. Its one invariant is that all of it is synchronous: when a call
// returns, every frame that it set off has been delivered or dropped.
package prog

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/phase"
)

// MaxPods is how many pods each node of a world can have.
const MaxPods = 6

// ErrTopology is a topology that this world cannot have.
var ErrTopology = errors.New("not possible in world prog")

// Pool is a number of workers. Each has a thread, a network namespace with
// fixed devices, and the programs and tables of as many nodes as its worlds
// have had so far, loaded once.
type Pool struct {
	options  datapath.Options
	jobs     chan job
	workers  sync.WaitGroup
	exchange atomic.Pointer[datapath.Exchange]
}

type job struct {
	ctx  context.Context
	topo lab.Topology
	use  func(*World)
	done chan error
}

// NewPool starts workers. It needs CAP_NET_ADMIN, CAP_BPF and CAP_SYS_ADMIN.
// Datapaths are opened with the options; those that attach or pin are not for it.
func NewPool(workers int, options datapath.Options) (*Pool, error) {
	p := &Pool{options: options, jobs: make(chan job)}
	started := make(chan error)
	for range workers {
		p.workers.Add(1)
		go onOwnThread(func() {
			defer p.workers.Done()
			p.work(started)
		})
	}
	var errs []error
	for range workers {
		errs = append(errs, <-started)
	}
	if err := errors.Join(errs...); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// onOwnThread runs f on a thread that ends with it, and whose namespaces end
// with the thread. The main thread would stay: it is only passed on from.
func onOwnThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return // locked: the thread dies
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
	runtime.UnlockOSThread()
}

// Use runs a function with a world of a topology, on a worker's thread, and
// removes the world. The world is not to be used after, nor by other goroutines.
func (p *Pool) Use(ctx context.Context, topo lab.Topology, use func(*World)) error {
	if err := checkTopology(topo); err != nil {
		return fmt.Errorf("make a world: %w", err)
	}
	j := job{ctx, topo, use, make(chan error, 1)}
	defer phase.Start(ctx, phase.Queue)()
	select {
	case p.jobs <- j:
		return <-j.done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Fill has a worker load what a world of so many nodes takes, and one of a node
// with small shares. It is for a pool of one worker.
func (p *Pool) Fill(ctx context.Context, nodes int) error {
	var all []lab.Host
	for n := range nodes {
		all = append(all, lab.Host{Name: fmt.Sprintf("node-%d", n)})
	}
	for _, topo := range []lab.Topology{{Nodes: all}, {Nodes: all[:1], SmallShares: true}} {
		var failed error
		err := p.Use(ctx, topo, func(w *World) {
			for _, n := range w.nodes {
				failed = errors.Join(failed, n.dp.LoadAll())
			}
		})
		if err := errors.Join(err, failed); err != nil {
			return fmt.Errorf("fill pool: %w", err)
		}
	}
	return nil
}

// Costs gives what the verifier spent on the programs of a node, for a pool opened with
// Stats.
func (p *Pool) Costs(ctx context.Context) (costs []datapath.ProgramCost, err error) {
	failed := p.Use(ctx, lab.Topology{Nodes: []lab.Host{{Name: "node"}}}, func(w *World) { costs, err = w.nodes[0].dp.Costs() })
	return costs, errors.Join(failed, err)
}

// Exchange has all worlds from now on run changed programs: see
// datapath.Exchange. Nil: those that were loaded at first. Each datapath of a
// worker gets them when a world first uses it.
func (p *Pool) Exchange(x *datapath.Exchange) { p.exchange.Store(x) }

// Close ends the workers and waits until they are gone.
func (p *Pool) Close() {
	close(p.jobs)
	p.workers.Wait()
}

// checkTopology refuses what no worker has devices for.
func checkTopology(topo lab.Topology) error {
	if len(topo.Nodes) == 0 {
		return fmt.Errorf("%w: it has no node", ErrTopology)
	}
	pods := make([]int, len(topo.Nodes))
	for _, h := range topo.Pods {
		node := topo.NodeOf(h)
		if node < 0 {
			return fmt.Errorf("%w: there is no node %s for pod %s", ErrTopology, h.Node, h.Name)
		}
		if pods[node]++; pods[node] > MaxPods {
			return fmt.Errorf("%w: node %s has more pods than devices, of which there are %d", ErrTopology, topo.Nodes[node].Name, MaxPods)
		}
	}
	return nil
}

// worker is what a thread of the pool has.
type worker struct {
	net     *network
	options datapath.Options
	nodes   nodes // of most worlds
	small   nodes // of those with small shares
	// exchange is what the pool's worlds are to run.
	exchange *atomic.Pointer[datapath.Exchange]
}

// nodes are datapaths by the index of the node, and what each was told last to
// run.
type nodes struct {
	datapaths []*datapath.Datapath
	exchanged []*datapath.Exchange
}

func (p *Pool) work(started chan<- error) {
	net, err := newNetwork()
	if err != nil {
		started <- err
		return
	}
	w := &worker{net: net, options: p.options, exchange: &p.exchange}
	defer w.close()
	if err := w.nodes.grow(1, w.roomy); err != nil {
		started <- err
		return
	}
	started <- nil
	for j := range p.jobs {
		w.serve(j)
	}
}

// errEnded is a function that ended its goroutine, as one does that fails a
// test; the worker ends with it.
var errEnded = errors.New("what used the world has ended the worker")

func (w *worker) serve(j job) {
	err := errEnded
	defer func() { j.done <- err }()
	err = w.run(j)
}

// grow opens datapaths until there are some for so many nodes.
func (n *nodes) grow(count int, options func(node int) datapath.Options) error {
	for len(n.datapaths) < count {
		dp, err := datapath.Open(options(len(n.datapaths)))
		if err != nil {
			return fmt.Errorf("open datapath for world prog: %w", err)
		}
		n.datapaths, n.exchanged = append(n.datapaths, dp), append(n.exchanged, nil)
	}
	return nil
}

// roomy are the options of a node's datapath: the first has what an agent's has.
func (w *worker) roomy(node int) datapath.Options {
	options := w.options
	if node > 0 {
		options.Flows, options.Unanswered = lab.FlowRoom, lab.FlowRoom
	}
	return options
}

func (w *worker) close() {
	for _, dp := range slices.Concat(w.nodes.datapaths, w.small.datapaths) {
		dp.Close()
	}
}

// forTopology gives the datapaths of a world.
func (w *worker) forTopology(topo *lab.Topology) (*nodes, error) {
	if topo.SmallShares {
		return &w.small, w.small.grow(len(topo.Nodes), func(int) datapath.Options { return smallShares(w.options) })
	}
	return &w.nodes, w.nodes.grow(len(topo.Nodes), w.roomy)
}

func (w *worker) run(j job) error {
	end := phase.Start(j.ctx, phase.Load)
	nodes, err := w.forTopology(&j.topo)
	end()
	if err != nil {
		return err
	}
	defer phase.Start(j.ctx, phase.Tables)()
	x := w.exchange.Load()
	datapaths := nodes.datapaths[:len(j.topo.Nodes)]
	for i, dp := range datapaths {
		if nodes.exchanged[i] != x {
			nodes.exchanged[i] = x
			if err := dp.Exchange(x); err != nil {
				return fmt.Errorf("give back the programs of an earlier world: %w", err)
			}
		}
		if err := dp.Reset(); err != nil {
			return fmt.Errorf("empty the tables for a new world: %w", err)
		}
		if err := dp.BeginAt(firstEpoch(&j.topo, i)); err != nil {
			return fmt.Errorf("begin a new world: %w", err)
		}
	}
	world, err := newWorld(j.topo, w.net, datapaths)
	if err != nil {
		return err
	}
	j.use(world)
	return nil
}

// firstEpoch is 1 or 2, as the topology is, and not the same for neighbours: programs
// have to read the right half of each table in either.
func firstEpoch(topo *lab.Topology, node int) uint32 {
	epoch := node + len(topo.Pods) + len(topo.Outside)
	if len(topo.Gateways) > 0 && topo.Gateways[0].Is6() {
		epoch++
	}
	return 1 + uint32(epoch&1)
}
