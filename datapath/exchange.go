// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Exchange changes programs of an open Datapath, one at a time, each when it is
// next asked for. What it does not change goes on as it is loaded.
type Exchange struct {
	// Edit changes a program, and says whether it did. It is given a copy of
	// what was loaded, with the changes of Options.Edit.
	Edit func(*ebpf.ProgramSpec) (bool, error)
	// Loaded is told of each program that was changed: ErrRefused where the
	// verifier refuses it, which whoever asked for it gets too. May be nil.
	Loaded func(name string, err error)
}

// ErrRefused is a program that the verifier refuses. It is not asked why: to tell
// takes it ten times as long as to refuse.
var ErrRefused = errors.New("the verifier refuses it")

// Exchange puts programs in the place of those that Run runs, until the next
// Exchange; nil: those that were there at first. What is attached to devices
// stays as it is. It is for those who plant errors: to load one program takes a
// fraction of the time that a Datapath takes.
func (d *Datapath) Exchange(x *Exchange) error { return d.programs.exchangeFor(x) }

// LoadExchanged loads programs of an Exchange now.
func (d *Datapath) LoadExchanged(names ...string) error {
	for _, name := range names {
		if _, err := d.programs.get(name); err != nil {
			return err
		}
	}
	return nil
}

// exchanged are programs in the place of others; nil where they are not changed.
type exchanged map[string]*ebpf.Program

func (p *programs) exchangeFor(x *Exchange) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.exchanged
	p.exchange, p.exchanged = x, exchanged{}
	return old.close()
}

func (x exchanged) close() error {
	var errs []error
	for _, prog := range x {
		if prog != nil {
			errs = append(errs, prog.Close())
		}
	}
	return errors.Join(errs...)
}

// inPlaceOf gives the program that is in the place of another; nil for none.
func (p *programs) inPlaceOf(name string) (*ebpf.Program, error) {
	if p.exchange == nil {
		return nil, nil
	}
	if prog, done := p.exchanged[name]; done {
		return prog, nil
	}
	prog, err := p.loadChanged(name)
	if err != nil {
		err = fmt.Errorf("load program %s as it was changed: %w", name, err)
	}
	if (prog != nil || err != nil) && p.exchange.Loaded != nil {
		p.exchange.Loaded(name, err)
	}
	if err == nil {
		p.exchanged[name] = prog
	}
	return prog, err
}

func (p *programs) loadChanged(name string) (*ebpf.Program, error) {
	for _, of := range p.objects.all() {
		if of.Programs[name] == nil {
			continue
		}
		one := *of
		spec := of.Programs[name].Copy()
		changed, err := p.exchange.Edit(spec)
		if err != nil || !changed {
			return nil, err
		}
		one.Programs = map[string]*ebpf.ProgramSpec{name: spec}
		made, err := ebpf.NewCollectionWithOptions(&one, ebpf.CollectionOptions{
			Programs: ebpf.ProgramOptions{LogDisabled: true}, MapReplacements: shared(p.tables),
		})
		// EFAULT is a bug of the verifier's that it has found itself.
		for _, refusal := range []error{unix.EACCES, unix.EINVAL, unix.E2BIG, unix.EFAULT} {
			if errors.Is(err, refusal) {
				return nil, fmt.Errorf("%w: %w", ErrRefused, err)
			}
		}
		if err != nil {
			return nil, err
		}
		return made.Programs[name], closeAll(made.Maps)
	}
	return nil, nil
}
