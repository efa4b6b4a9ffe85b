// SPDX-License-Identifier: Apache-2.0

// Package shard parts scenarios into shards, so that several machines run them
// at once, and says of what is run which part of which whole it is.
//
// It runs nothing and schedules nothing: each machine works out the same parts
// by itself. Its one invariant is that for the same scenarios, worlds and costs
// each scenario, with all its families and worlds, is in one shard.
package shard
