package main

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apps "k8s.io/client-go/applyconfigurations/apps/v1"
	core "k8s.io/client-go/applyconfigurations/core/v1"
	meta "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

const finalizer = "web.example.com/site"

// Makes of a site a ConfigMap and a Deployment.
type reconciler struct {
	client.Client
	events  events.EventRecorder
	image   string
	removed chan<- string
}

func (r *reconciler) add(ctx context.Context, manager ctrl.Manager) error {
	page := func(object client.Object) []string { return []string{object.(*Site).Spec.Page} }
	if err := manager.GetFieldIndexer().IndexField(ctx, &Site{}, "spec.page", page); err != nil {
		return err
	}
	// Two operators of one name are in this process.
	options := controller.Options{SkipNameValidation: ptr.To(true)}
	return ctrl.NewControllerManagedBy(manager).For(&Site{}).Owns(&appsv1.Deployment{}).Owns(&corev1.ConfigMap{}).WithOptions(options).Complete(r)
}

// Reconcile makes what is what should be.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var site Site
	if err := r.Get(ctx, request.NamespacedName, &site); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !site.DeletionTimestamp.IsZero() {
		if !controllerutil.RemoveFinalizer(&site, finalizer) {
			return ctrl.Result{}, nil
		}
		r.removed <- site.Name
		return ctrl.Result{}, r.Update(ctx, &site)
	}
	if controllerutil.AddFinalizer(&site, finalizer) {
		return ctrl.Result{}, r.Update(ctx, &site)
	}
	if err := r.apply(ctx, &site); err != nil {
		return ctrl.Result{}, err
	}
	var deployment appsv1.Deployment
	if err := r.Get(ctx, request.NamespacedName, &deployment); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if deployment.Status.ObservedGeneration != deployment.Generation || *deployment.Spec.Replicas != site.Spec.Replicas {
		return ctrl.Result{}, nil
	}
	old := site.DeepCopyObject().(*Site)
	site.Status = SiteStatus{ObservedGeneration: site.Generation, Ready: deployment.Status.ReadyReplicas}
	if site.Status == old.Status {
		return ctrl.Result{}, nil
	}
	r.events.Eventf(&site, &deployment, corev1.EventTypeNormal, "Served", "Reconcile", "%d replicas are ready", site.Status.Ready)
	return ctrl.Result{}, r.Status().Patch(ctx, &site, client.MergeFrom(old))
}

func (r *reconciler) apply(ctx context.Context, site *Site) error {
	owner := meta.OwnerReference().WithAPIVersion(group.String()).WithKind("Site").WithName(site.Name).WithUID(site.UID).
		WithController(true).WithBlockOwnerDeletion(true)
	labels := map[string]string{"site": site.Name}
	page := core.ConfigMap(site.Name, site.Namespace).WithOwnerReferences(owner).WithData(map[string]string{"index.html": site.Spec.Page})
	container := core.Container().WithName("web").WithImage(r.image).WithCommand("busybox", "httpd", "-f", "-p", "80")
	pod := core.PodSpec().WithTerminationGracePeriodSeconds(0).WithContainers(container)
	deployment := apps.Deployment(site.Name, site.Namespace).WithOwnerReferences(owner).WithSpec(apps.DeploymentSpec().
		WithReplicas(site.Spec.Replicas).WithSelector(meta.LabelSelector().WithMatchLabels(labels)).
		WithTemplate(core.PodTemplateSpec().WithLabels(labels).WithSpec(pod)))
	owned := []client.ApplyOption{client.FieldOwner("sites"), client.ForceOwnership}
	if err := r.Apply(ctx, page, owned...); err != nil {
		return err
	}
	return r.Apply(ctx, deployment, owned...)
}
