// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/agent/watch"
	"github.com/weirnet/weir/model"
)

// policyObjects are where the objects of a policy command come from.
type policyObjects struct {
	kubeconfig string
}

func (o *policyObjects) addFlag(cmd *cobra.Command, use string) {
	cmd.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "take the objects of the cluster that this `file` leads to; "+use)
}

func (o *policyObjects) live() bool { return o.kubeconfig != "" }

// read gives the objects of the live cluster, if one is named, and what paths
// hold in their place or beside them.
func (o *policyObjects) read(cmd *cobra.Command, paths ...string) (*model.Objects, error) {
	objs, err := readObjects(cmd.InOrStdin(), paths...)
	if err != nil || !o.live() {
		return objs, err
	}
	live, err := liveObjects(cmd.Context(), o.kubeconfig, cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	live.Merge(objs)
	return live, leaveRefused(live, objs, cmd.ErrOrStderr())
}

// leaveRefused does with a cluster's objects that cannot be kept what the agents
// do: it leaves them out, and isolates the pods of policies. What was given by
// the caller stays, for him to be told.
func leaveRefused(live, given *model.Objects, warn io.Writer) error {
	stays := given.Titles()
	for {
		_, err := doubts(live)
		left := 0
		for _, err := range joined(err) {
			refused, ok := errors.AsType[*model.FieldError](err)
			if !ok || slices.Contains(stays, refused.Object) {
				continue
			}
			stays = append(stays, refused.Object) // what is in its place now
			if told, found := live.LeaveOut(refused.Object); found {
				left++
				tellRefused(warn, refused.Object, refused.Field, refused.Problem, told)
			}
		}
		if left == 0 {
			return nil // what is wrong yet, the caller meets
		}
	}
}

func joined(err error) []error {
	several, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, err := range several.Unwrap() {
		all = append(all, joined(err)...)
	}
	return all
}

func tellRefused(warn io.Writer, object, field, problem, told string) {
	if field != "" {
		problem = field + ": " + problem
	}
	if told != "" {
		told = " (" + told + ")"
	}
	fmt.Fprintf(warn, "weir: left out: %s: %s%s\n", object, problem, told)
}

// livePatience is how long a cluster may take to list its objects.
const livePatience = 20 * time.Second

// liveObjects reads what an agent would. Objects that cannot be read are named
// and left out, as agents leave them out.
func liveObjects(ctx context.Context, kubeconfig string, warn io.Writer) (*model.Objects, error) {
	clients, err := watch.Connect(kubeconfig)
	if err != nil {
		return nil, err
	}
	watcher, err := watch.New(clients.Typed, clients.Dynamic, func() {})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, livePatience, errors.New("the cluster has not answered within 20 seconds"))
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		watcher.Run(ctx)
	}()
	err = watcher.WaitForSync(ctx)
	objs, refused := watcher.Objects()
	cancel()
	<-ended
	if err != nil {
		return nil, fmt.Errorf("read the cluster of kubeconfig %s: %w", kubeconfig, err)
	}
	for _, r := range refused {
		tellRefused(warn, r.Object, r.Field, r.Problem, objs.Isolate(r.Object, r.Raw))
	}
	return objs, nil
}
