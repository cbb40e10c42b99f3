package store

// AfterSurvey has f called when Publish has looked at the tree, and not read it yet.
func (o *PublishOptions) AfterSurvey(f func()) { o.surveyed = f }
