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
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
)

// MaxPods is how many pods a world can have.
const MaxPods = 6

// ErrTopology is a topology that this world cannot have.
var ErrTopology = errors.New("not possible in world prog")

// Pool is a number of workers. Each has a thread, a network namespace with
// fixed devices, and the programs, loaded once.
type Pool struct {
	jobs    chan job
	workers sync.WaitGroup
}

type job struct {
	ctx  context.Context
	topo lab.Topology
	use  func(*World)
	done chan error
}

// NewPool starts workers. It needs CAP_NET_ADMIN, CAP_BPF and CAP_SYS_ADMIN.
func NewPool(workers int) (*Pool, error) {
	p := &Pool{jobs: make(chan job)}
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
	if len(topo.Pods) > MaxPods {
		return fmt.Errorf("make a world of %d pods: %w: it has devices for %d", len(topo.Pods), ErrTopology, MaxPods)
	}
	j := job{ctx, topo, use, make(chan error, 1)}
	select {
	case p.jobs <- j:
		return <-j.done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends the workers and waits until they are gone.
func (p *Pool) Close() {
	close(p.jobs)
	p.workers.Wait()
}

func (p *Pool) work(started chan<- error) {
	net, err := newNetwork()
	if err != nil {
		started <- err
		return
	}
	dp, err := datapath.Open(datapath.Options{})
	if err != nil {
		started <- fmt.Errorf("open datapath for world prog: %w", err)
		return
	}
	defer dp.Close()
	started <- nil
	for j := range p.jobs {
		j.done <- run(j, net, dp)
	}
}

func run(j job, net *network, dp *datapath.Datapath) error {
	if err := dp.Reset(); err != nil {
		return fmt.Errorf("empty the tables for a new world: %w", err)
	}
	w, err := newWorld(j.topo, net, dp)
	if err != nil {
		return err
	}
	j.use(w)
	return nil
}
