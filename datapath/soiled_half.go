// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"unsafe"
)

// Of two halves of an entry packets read one. What was there before the last Apply
// looks much like what is there now, so that a program which reads the wrong half
// would often do right. So a Witness soils the half that nobody may read.

// soilHalves soils what packets of the epoch do not read. Services and their
// backends stay: who numbers them looks at both halves.
func (d *Datapath) soilHalves() error {
	unused := 1 - d.half()
	return errors.Join(d.nodes.soil(unused), d.tunnels.soil(unused), d.endpoints.soil(unused), d.ipcache.soil(unused))
}

// soil fills one half of all entries that the other half has. It is written anew,
// by the next stage, as any other that differs from what is wanted.
func (t *pairTable[K, H]) soil(half int) error {
	var zero, soiledHalf H
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&soiledHalf)), unsafe.Sizeof(soiledHalf)), bytes.Repeat([]byte{soiled}, int(unsafe.Sizeof(soiledHalf))))
	t.mu.Lock()
	defer t.mu.Unlock()
	var keys []K
	var pairs [][2]H
	for key, pair := range t.have {
		if pair[1-half] == zero || pair[half] == soiledHalf {
			continue
		}
		pair[half] = soiledHalf
		keys, pairs = append(keys, key), append(pairs, pair)
	}
	return t.write(keys, pairs)
}

// soilHalves does so once an epoch.
func (w *Witness) soilHalves() error {
	w.d.applying.Lock()
	defer w.d.applying.Unlock()
	if epoch := w.d.epoch(); epoch != w.epoch {
		w.epoch = epoch
		return w.d.soilHalves()
	}
	return nil
}
