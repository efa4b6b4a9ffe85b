// SPDX-License-Identifier: Apache-2.0

package agent

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/watch"
	"github.com/weirnet/weir/model/manifest"
)

// Tell gives Options.Events that make Events of the cluster's.
func Tell(recorder *watch.Recorder) func(api.Refused) {
	return func(refused api.Refused) {
		object := refused.Object
		obj := &metav1.ObjectMeta{Namespace: object.Namespace, Name: object.Name, UID: types.UID(refused.UID)}
		message := refused.Problem
		if refused.Field != "" {
			message = refused.Field + ": " + message
		}
		reason := "RefusedByWeir"
		switch {
		case refused.Ignored:
			reason = "FieldIgnored"
		case refused.FieldOnly:
			reason = "ClaimLost"
		}
		recorder.Warn(object.Kind, manifest.APIVersionOf(object.Kind), obj, reason, message)
	}
}
