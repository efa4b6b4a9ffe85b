// SPDX-License-Identifier: Apache-2.0

package cover

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Record is what the counters of an object told of one stretch of time. It is
// small, and may be sent to a process that has the same object.
type Record struct {
	Object string `json:"object"`
	Shape  string `json:"shape"` // Shape.Sum
	// Counts are the counters' numbers; nil: all are zero.
	Counts Numbers `json:"counts,omitempty"`
	// Live tells, by a number above zero, which counters the verifier left in
	// the programs; nil: nothing new of it.
	Live Numbers `json:"live,omitempty"`
}

// Numbers are many numbers, most of them zero: for each other one, how many
// zeros come before it and what it is, as unsigned varints.
type Numbers []byte

// ErrRecord is a record that is not of the shape that it is to be read by.
var ErrRecord = errors.New("a record of counts is of another object, or broken")

func pack(numbers []uint64) Numbers {
	var packed Numbers
	zeros := uint64(0)
	for _, n := range numbers {
		if n == 0 {
			zeros++
			continue
		}
		packed = binary.AppendUvarint(binary.AppendUvarint(packed, zeros), n)
		zeros = 0
	}
	return packed
}

// Each calls f for every number that is not zero. ErrRecord when they are not
// of so many counters.
func (n Numbers) Each(counters int, f func(counter int, number uint64)) error {
	at := 0
	for len(n) > 0 {
		zeros, used := binary.Uvarint(n)
		if used <= 0 || zeros >= uint64(counters-at) {
			return ErrRecord
		}
		number, more := binary.Uvarint(n[used:])
		if more <= 0 {
			return ErrRecord
		}
		f(at+int(zeros), number)
		at += int(zeros) + 1
		n = n[used+more:]
	}
	return nil
}

// Read adds the record to sums of counts and to what is live, each of as many
// numbers as the shape has counters.
func (r *Record) Read(s *Shape, counts, live []uint64) error {
	if r.Object != s.Name || r.Shape != s.Sum {
		return fmt.Errorf("read the counts of %s: %w", r.Object, ErrRecord)
	}
	add := func(to []uint64) func(int, uint64) { return func(i int, n uint64) { to[i] += n } }
	if err := errors.Join(r.Counts.Each(s.Counters, add(counts)), r.Live.Each(s.Counters, add(live))); err != nil {
		return fmt.Errorf("read the counts of %s: %w", r.Object, err)
	}
	return nil
}

// Take gives what was counted since the last Take or Reset, and begins anew.
func (c *Counters) Take() []Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Record
	for _, o := range c.objects {
		r := Record{Object: o.Name, Shape: o.Sum, Counts: pack(o.read()), Live: pack(o.live)}
		o.reset()
		o.live = nil
		if len(r.Counts)+len(r.Live) > 0 {
			all = append(all, r)
		}
	}
	return all
}

func add(a, b []uint64) []uint64 {
	if a == nil || b == nil {
		return append(a, b...)
	}
	sum := make([]uint64, len(a))
	for i := range sum {
		sum[i] = a[i] + b[i]
	}
	return sum
}
