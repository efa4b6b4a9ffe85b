// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"iter"
	"maps"
)

// keySet is a set of keys. To walk through one that was large once costs what is in it
// now: a map of Go never becomes smaller, and is walked whole.
type keySet[K comparable] struct {
	keys map[K]struct{}
	most int // how many were in this map
}

// keySetRoom is how many keys a set may have room for without being made anew.
const keySetRoom = 64

func (s *keySet[K]) add(key K) {
	if s.keys == nil {
		s.keys = map[K]struct{}{}
	}
	s.keys[key] = struct{}{}
	s.most = max(s.most, len(s.keys))
}

func (s *keySet[K]) remove(key K) {
	delete(s.keys, key)
	if s.most <= keySetRoom || len(s.keys) > s.most/8 {
		return
	}
	fewer := make(map[K]struct{}, len(s.keys))
	for key := range s.keys {
		fewer[key] = struct{}{}
	}
	s.keys, s.most = fewer, len(fewer)
}

func (s *keySet[K]) has(key K) bool {
	_, has := s.keys[key]
	return has
}

func (s *keySet[K]) len() int { return len(s.keys) }

// all gives the keys, in no order. Keys that are removed meanwhile may be given.
func (s *keySet[K]) all() iter.Seq[K] { return maps.Keys(s.keys) }
